"""What there is to train: one job per adapter, its examples tokenised and checked before anything is trained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.benchmarks.cells import load_items, shot_ids
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.config.training import UNDECISIVE
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.models.resolve import model_revision, resolve_model
from transfergrid.engine.models.shapes import plan_linear_shapes, read_linear_shapes
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.grid import CELL_KIND, MIXTURE_KIND, VARIANT_KIND, Cell, Source, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.examples import (
    CellData,
    ExampleSettings,
    build_examples,
    hash_examples,
    mix_cells,
    split_validation,
)
from transfergrid.trainers.trackers import check_trackers

DEFAULT_MAX_LENGTH = 512
"""Longest example of a task that ``training.max_length`` does not name, in tokens."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A base model on this machine."""

    config: ModelConfig
    folder: Path
    revision: str
    """Hub commit or content hash."""
    tokenizer: Any

    @property
    def is_from_hub(self) -> bool:
        """Whether the base is a hub's, not a local folder or the bundled one."""
        return self.folder.parent.name == "snapshots"

    @property
    def public_name(self) -> str:
        """What names the base on any machine: hub id, bundled name, or the configuration's name of a local folder."""
        is_named = self.is_from_hub or self.config.path.startswith("bundled:")
        return self.config.path if is_named else self.config.name


@dataclass(frozen=True, slots=True)
class AdapterJob(ABC):
    """An adapter that is to be made, in whatever way."""

    model: ResolvedModel
    seed: int
    source: Source
    """What it is an adapter of, without a seed."""
    folder: Path
    """Where the adapter goes."""

    @property
    def name(self) -> str:
        """``MODEL sSEED SOURCE``."""
        return f"{self.model.config.name} s{self.seed} {self.source.name}"

    @property
    def is_ready(self) -> bool:
        """Whether all that it is made of is there."""
        return True

    @abstractmethod
    def key_parts(self, config: GridConfig) -> dict[str, Any]:
        """Return what decides the adapter's weights, as JSON."""


@dataclass(frozen=True, slots=True)
class TrainingJob(AdapterJob):
    """One adapter to train: a cell's usual one, of a mixture, or a variant of one of them."""

    data: CellData

    def n_steps(self, batch_size: int, epochs: int) -> int:
        """Return the optimizer steps of all epochs at an effective batch size."""
        return epochs * math.ceil(len(self.data.train) / batch_size)

    def key_parts(self, config: GridConfig) -> dict[str, Any]:
        """Return what decides the weights: without ``training.UNDECISIVE``, in the number format of this machine."""
        config = config.of(self.source.variant)
        training = config.training.model_dump(mode="json", exclude=set(UNDECISIVE))
        training["dtype"] = resolve_dtype(config.training.dtype)
        lengths = {cell.task: max_length(config, cell.task) for cell in self.source.cells}
        training["max_length"] = lengths if len(lengths) > 1 else lengths[self.source.cells[0].task]
        is_full = training.pop("method") == "full"  # keys from before there was a choice have no method
        return {
            "base_revision": self.model.revision,
            "seed": self.seed,
            "data_hash": self.data.data_hash,
            **({"method": "full"} if is_full else {"lora": config.lora.model_dump(mode="json")}),
            "training": training,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """Examples per step that fit into memory."""

    batch_size: int
    gradient_accumulation: int

    @property
    def effective(self) -> int:
        """Examples per optimizer step."""
        return self.batch_size * self.gradient_accumulation

    def halved(self) -> BatchShape | None:
        """Return the next smaller shape with as many examples per optimizer step; None below one example."""
        for size in range(self.batch_size // 2, 0, -1):
            if self.effective % size == 0:
                return BatchShape(batch_size=size, gradient_accumulation=self.effective // size)
        return None


def max_length(config: GridConfig, task: str) -> int:
    """Return the longest example of a task in tokens."""
    return config.training.max_length.get(task, DEFAULT_MAX_LENGTH)


def prepare_jobs(
    config: GridConfig, run: RunFolder, selection: Selection, *, with_weights: bool = True
) -> list[TrainingJob]:
    """Resolve every model, tokenise every cell that is trained on and check them all.

    Returns:
        Jobs in the order they are trained: model by model, seed by seed, source by source.

    Raises:
        UserError: If a model or any cell cannot be trained, or a tracker is not there; lists every fault.
    """
    faults: list[str] = []
    recipes = [config.of(variant) for variant in dict.fromkeys(source.variant for source in selection.sources)]
    try:
        for each in recipes:
            check_trackers(each.training.report_to)
    except UserError as error:
        faults.append(str(error))
    modules = dict.fromkeys(name for each in recipes for name in each.lora.target_modules)
    jobs: list[TrainingJob] = []
    for model_config in selection.models:
        try:
            model = find_model(model_config, modules, with_weights=with_weights)
        except UserError as error:
            faults.append(str(error))
            continue
        jobs += _model_jobs(config, run, model, selection, faults=faults)
    if faults := list(dict.fromkeys(faults)):  # variants may share one
        raise UserError(f"{len(faults)} fault(s), nothing was trained:" + "".join(f"\n  - {fault}" for fault in faults))
    return jobs


def find_model(config: ModelConfig, target_modules: Iterable[str], *, with_weights: bool = True) -> ResolvedModel:
    """Find a model and check that it has the layers that get LoRA.

    Raises:
        UserError: If it cannot be found, or lacks layers.
    """
    folder = resolve_model(config.path, config.revision, with_weights=with_weights)
    shapes = read_linear_shapes(folder) if with_weights else plan_linear_shapes(folder)
    present = {name.rpartition(".")[2] for name in shapes}
    if missing := sorted(set(target_modules) - present):
        raise UserError(
            f"model {config.name!r} has no linear layers {missing}; expected lora.target_modules out of "
            f"{sorted(present)}"
        )
    return ResolvedModel(config, folder, model_revision(folder), load_tokenizer(folder))


def _model_jobs(
    config: GridConfig, run: RunFolder, model: ResolvedModel, selection: Selection, *, faults: list[str]
) -> list[TrainingJob]:
    """Return the jobs of one model; add the faults of what cannot be trained."""
    trained = [source for source in selection.sources if source.kind in (CELL_KIND, MIXTURE_KIND, VARIANT_KIND)]
    tokenised: dict[str, Mapping[Cell, CellData]] = {}
    for variant in dict.fromkeys(source.variant for source in trained):
        cells = dict.fromkeys(cell for source in trained if source.variant == variant for cell in source.cells)
        tokenised[variant] = _tokenise_cells(config.of(variant), run, model, tuple(cells), faults=faults)
    budgets = {recipe.source.name: recipe.budget for recipe in config.recipes}
    jobs = []
    for seed in selection.seeds:
        for source in trained:
            data = tokenised[source.variant]
            parts = [data[cell] for cell in source.cells if cell in data]
            if len(parts) < len(source.cells):  # its cell's fault is named already
                continue
            try:
                whole = mix_cells(parts, budgets.get(source.name, "same"), seed)  # of one cell: that cell's
            except UserError as error:
                faults.append(f"{model.config.name}, {source.name}: {error}")
            else:
                jobs.append(TrainingJob(model, seed, source, run.adapter(model.config.name, seed, source), whole))
    return jobs


def _tokenise_cells(
    config: GridConfig, run: RunFolder, model: ResolvedModel, cells: Sequence[Cell], *, faults: list[str]
) -> Mapping[Cell, CellData]:
    """Return the data of every cell that can be trained; add the faults of the others."""
    data = {}
    for cell in cells:
        try:
            data[cell] = _cell_data(config, run, model, cell)
        except UserError as error:
            faults.append(f"{model.config.name}, {cell.name}: {error}")
    return data


def _cell_data(config: GridConfig, run: RunFolder, model: ResolvedModel, cell: Cell) -> CellData:
    """Tokenise and split the train items of one cell."""
    task = get_task(cell.task, config.own_tasks)
    train_format = task.formats[config.prompts.train_format]
    settings = ExampleSettings(
        max_length=max_length(config, cell.task),
        supervise=train_format.supervise,
        truncation=config.training.truncation,
        chat_template=config.prompts.train_chat_template,
        supervise_end_token=config.training.supervise_end_token,
        template_arguments=config.prompts.template_arguments,
        date=config.prompts.date,
    )
    items = load_items(run.data, task, cell.language, "train", train_format.name)
    if not items:
        raise UserError(
            "lm-evaluation-harness has no training split of this task, no document in it, or whole texts without an "
            "answer to learn; set train: false on the task, which keeps it as a target"
        )
    if config.prompts.shots_held_out and task.is_harness and config.prompts.eval_format == "eval":
        raise UserError(
            "prompts.shots_held_out: true cannot hold out the shots of a task of lm-evaluation-harness, which draws "
            "others for every item; set it to false"
        )
    if config.prompts.shots_held_out:
        shots = set(shot_ids(items, config.prompts))
        items = [item for item in items if item.item_id not in shots]
    train, validation = split_validation(
        len(items), config.training.validation_fraction, config.training.validation_seed
    )
    examples = build_examples(model.tokenizer, items, settings)
    return CellData(
        train=tuple(examples[index] for index in train),
        validation=tuple(examples[index] for index in validation),
        data_hash=hash_examples([examples[index] for index in (*train, *validation)]),
    )
