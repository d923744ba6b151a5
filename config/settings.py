"""The settings of a run, as one frozen record read from YAML.

Every number of the recipe defaults to the study's (arXiv 2511.13368). Models and data default to what ships with the
project, so that the default configuration runs with no network; the preset ``paper`` names the study's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, ValidationInfo, field_validator, model_validator

from transfergrid.config.harness import HarnessTask, check_names, make_grid, take_harness_tasks
from transfergrid.config.languages import is_language_code
from transfergrid.config.prompts import PromptConfig
from transfergrid.config.sources import Budget, Recipe, SourceConfig, read_recipes
from transfergrid.config.training import LoraConfig, TrainingConfig, VariantConfig, read_variants
from transfergrid.config.values import (
    NUMBER,
    Dtype,
    Fraction,
    LocalPath,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    UsableName,
    UsablePath,
    refuse_repeated,
)
from transfergrid.grid import LANGUAGES, SEEDS, TASKS, Grid, Source
from transfergrid.wording import closest_hint

BUNDLED_MODEL = "bundled:smollm2-135m-instruct"
"""Model that is installed with the project and needs no hub."""

Named = TypeVar("Named", bound=BaseModel)


class ModelConfig(Section):
    """A base model; a plain string in YAML is its path."""

    path: UsablePath
    """Hub id, local folder (relative to this file), or ``bundled:smollm2-135m-instruct``, which is built once in the
    folder that the environment variable TRANSFERGRID_CACHE names, else in ``~/.cache/transfergrid``."""
    name: UsableName = ""
    """Name in folders and tables; default: the last part of the path."""
    revision: str | None = None
    """Hub revision (a commit hash pins the weights)."""
    family: str | None = None
    """Model family for grouping in the analysis; default: read off the name (llama, qwen, gemma, smollm)."""
    size_b: PositiveFloat | None = None
    """Size in billions of parameters for grouping; default: read off the name."""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            raw = {"path": raw}
        if isinstance(raw, dict) and isinstance(raw.get("path"), str) and not raw.get("name"):
            raw = {**raw, "name": raw["path"].rstrip("/").rsplit("/", 1)[-1].removeprefix("bundled:")}
        return raw


class DataConfig(Section):
    """Where the rows of the benchmarks come from."""

    source: Literal["bundled", "local", "hub"] = "bundled"
    """``bundled`` items of this project, a ``local`` folder, or the study's ``hub`` data sets."""
    path: LocalPath | None = None
    """Folder of ``source: local``: ``TASK/LANG/{train,test}.jsonl`` or ``.parquet``, or saved DatasetDicts."""
    align: Literal["strict", "intersect"] = "strict"
    """Ids missing in a language: refuse, or keep the ids that all languages have."""
    max_train_items: PositiveInt | None = None
    """Use only N train items, picked by a hash of their ids: the same ones in every language; null uses all."""
    max_test_items: PositiveInt | None = None
    """Use only N test items, picked by a hash of their ids: the same ones in every language; null uses all."""
    test_items_per_seed: PositiveInt | None = None
    """N test items of its own for each training seed, the same in every language; null: every seed has all of them."""
    revisions: dict[str, str] = {}
    """Hub revision per task, overriding the pinned one."""

    @model_validator(mode="after")
    def _path_fits_source(self) -> DataConfig:
        if (self.source == "local") != (self.path is not None):
            raise ValueError("'path' goes with 'source: local', and 'source: local' needs a 'path'")
        return self


class EngineConfig(Section):
    """How items are scored."""

    dtype: Dtype = "auto"
    """Number format of the model; ``auto``: bfloat16 (the study's) where native, else float32."""
    max_model_len: PositiveInt | None = None
    """Longest sequence in tokens; null: what the items need, at most what the model takes."""
    truncation: Literal["refuse", "left"] = "refuse"
    """Item too long: list it as not scored, or cut its context on the left and count it; never a choice."""
    max_loras: PositiveInt | None = None
    """Adapter slots on the device; null: chosen from memory."""
    token_budget: PositiveInt | None = None
    """Most tokens computed in one step; null: chosen from memory."""
    kv_cache_gib: PositiveFloat | None = None
    """Memory for keys and values; null: chosen from memory."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that share one model."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1), NUMBER] = 0.9
    """Share of a GPU's memory that may be in use while scoring, by other processes and the engine together."""
    quantization: str | None = None
    """vLLM's quantisation method of the base weights."""
    vllm_args: dict[str, JsonValue] = {}
    """Further vLLM engine arguments; only those of a checked list are taken."""


class AnalysisConfig(Section):
    """How log-likelihoods become statements."""

    harm_threshold_pp: Annotated[float, Field(le=0), NUMBER] = -1.0
    """A delta at or below this counts as harm, in percentage points."""
    confidence: Fraction = 0.95
    """Level of all intervals."""
    bootstrap_resamples: Annotated[int, Field(ge=100), NUMBER] = 2000
    """Resamples of the cluster bootstrap."""
    seed: Seed = 0
    """Seed of every resampler and permutation."""
    fdr: Fraction = 0.05
    """False discovery rate of the Benjamini-Hochberg procedure."""
    permutations: Annotated[int, Field(ge=99), NUMBER] = 9999
    """Permutations of the Mantel test."""


class GridConfig(Section):
    """Everything a run is told."""

    models: tuple[ModelConfig, ...] = Field(default=(ModelConfig(path=BUNDLED_MODEL),), min_length=1)
    """Base models: paths, or mappings with ``path`` and more."""
    custom_tasks: dict[str, LocalPath] = {}
    """Tasks described in YAML files: name to path, relative to this file."""
    harness_tasks: dict[str, HarnessTask] = {}
    """Tasks of lm-evaluation-harness by their names here; an entry of ``tasks`` can say the same in its place."""
    tasks: tuple[str, ...] = Field(default=TASKS, min_length=1)
    """Built-in tasks, names of ``custom_tasks``, and tasks of lm-evaluation-harness: ``{lm_eval: "xnli_{language}"}``,
    with ``as`` for another name here, and the settings below."""
    languages: tuple[str, ...] = Field(default=LANGUAGES, min_length=1)
    """ISO 639 codes."""
    seeds: tuple[Seed, ...] = Field(default=SEEDS, min_length=1)
    """Training seeds; each trains every adapter anew."""
    data: DataConfig = DataConfig()
    """Where the items come from."""
    prompts: PromptConfig = PromptConfig()
    """Which prompts training and evaluation use."""
    lora: LoraConfig = LoraConfig()
    """Shape of the adapters."""
    sources: dict[str, SourceConfig] = {}
    """Sources beyond one cell, by name: mixtures that are trained, merges of adapters."""
    training: TrainingConfig = TrainingConfig()
    """How one adapter is trained."""
    variants: dict[str, VariantConfig] = {}
    """Other recipes by name: what of ``lora``, ``training``, ``prompts`` differs, and ``of``: what each trains."""
    engine: EngineConfig = EngineConfig()
    """How items are scored."""
    analysis: AnalysisConfig = AnalysisConfig()
    """How log-likelihoods become statements."""

    @property
    def grid(self) -> Grid:
        """Cells and sources of this configuration."""
        return make_grid(self.tasks, self.languages, self.harness_tasks)

    @property
    def own_tasks(self) -> dict[str, Path | HarnessTask]:
        """Descriptions of the tasks that are not built in."""
        return {**self.custom_tasks, **self.harness_tasks}

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The sources beyond the usual adapters of single cells, and how they are made."""
        return _read_recipes(dict(self))

    def of(self, variant: str) -> GridConfig:
        """Return the configuration that a variant's adapters are trained by; empty: this one."""
        if variant not in self.variants:
            return self
        return self.model_copy(update=self.variants[variant].changed(_main(dict(self))))

    @model_validator(mode="before")
    @classmethod
    def _take_harness_tasks(cls, raw: Any) -> Any:
        return take_harness_tasks(raw)

    @field_validator("harness_tasks")
    @classmethod
    def _harness_names(cls, tasks: dict[str, HarnessTask], info: ValidationInfo) -> dict[str, HarnessTask]:
        check_names(tasks, info.data.get("custom_tasks", {}))
        for task in tasks.values():
            cls._known_languages(tuple(task.languages))
        return tasks

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        accepted = _known_names(info.data)
        unknown = [task for task in tasks if task not in accepted]
        expected = f"expected some of {accepted} or a name in custom_tasks"
        faults = [f"unknown task {task!r}; {expected}{closest_hint(task, accepted)}" for task in unknown]
        return refuse_repeated(tasks, faults)

    @field_validator("data", "training")
    @classmethod
    def _settings_of_known_tasks(cls, section: Named, info: ValidationInfo) -> Named:
        key = "revisions" if info.field_name == "data" else "max_length"
        accepted = _known_names(info.data)
        if unknown := [task for task in getattr(section, key) if task not in accepted]:
            raise ValueError(
                f"{key} names the unknown task {unknown[0]!r}; expected some of {accepted} or a name in custom_tasks"
                f"{closest_hint(unknown[0], accepted)}"
            )
        return section

    @field_validator("training")
    @classmethod
    def _merges_are_of_adapters(cls, training: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        given = info.data.get("sources", {}).values()
        if training.method == "full" and any(each.merge_of is not None or each.method is not None for each in given):
            raise ValueError(
                "method 'full' makes no adapters, and 'sources' merges some; drop the merges or the method"
            )
        return training

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [code for code in languages if code not in LANGUAGES and not is_language_code(code)]
        expected = f"expected ISO 639 codes such as {list(LANGUAGES)}"
        faults = [f"unknown language {code!r}; {expected}{closest_hint(code, LANGUAGES)}" for code in unknown]
        return refuse_repeated(languages, faults)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return refuse_repeated(seeds, [])

    @field_validator("sources", "variants")
    @classmethod
    def _can_be_made(cls, added: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if {*_NEEDED[str(info.field_name)]} <= info.data.keys():
            _read_recipes({**info.data, str(info.field_name): added})
        return added

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        names = [model.name for model in models]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two models are named {repeated[0]!r}; give one of them another 'name'")
        return models


_NEEDED = {
    "sources": ("tasks", "languages", "lora", "harness_tasks"),
    "variants": ("custom_tasks", "harness_tasks", "tasks", "languages", "lora", "sources", "prompts", "training"),
}
"""Settings that must be right before those that build on them can be read."""


def _main(settings: Mapping[str, Any]) -> dict[str, Section]:
    """Return the sections of the main recipe that a variant may change."""
    return {name: settings[name] for name in ("lora", "training", "prompts")}


def _read_recipes(settings: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """Return the mixtures and merges of some settings and, where they have any, the sources of variants."""
    grid = make_grid(settings["tasks"], settings["languages"], settings["harness_tasks"])
    recipes = read_recipes(settings["sources"], grid, rank=settings["lora"].r)
    if not settings.get("variants"):
        return recipes
    budgets: dict[Source, Budget] = {
        **dict.fromkeys(map(Source.of, grid.source_cells), "same"),
        **{each.source: each.budget for each in recipes if not each.merge},
    }
    found = read_variants(settings["variants"], _main(settings), tuple(budgets), _known_names(settings))
    return (*recipes, *(Recipe(source, budgets[main]) for source, main in found.items()))


def _known_names(settings: Mapping[str, Any]) -> list[str]:
    return [*TASKS, *settings.get("custom_tasks", {}), *settings.get("harness_tasks", {})]
