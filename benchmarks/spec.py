"""The description of a task in YAML: where its rows are, how they become prompts, which metrics count."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from transfergrid.benchmarks.metrics import METRICS
from transfergrid.config.faults import describe_faults
from transfergrid.config.yaml_text import parse_yaml
from transfergrid.grid import UserError

CHOICE_MODE = "choice"
"""The mode in which every choice is scored by its log-likelihood."""
HARNESS_MODE = "lm_eval"
"""The same, but lm-evaluation-harness makes a value of the log-likelihoods; also the name of that metric."""
HARNESS_METRICS = (HARNESS_MODE, f"{HARNESS_MODE}_acc")
"""Metrics of that mode: values from 0 to 1, and values that are 0 or 1."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChoicesSpec(_Spec):
    """How the answer options of a row are found; exactly one of the two fields."""

    templates: tuple[str, ...] | None = None
    """One Jinja template per option; an option that renders blank is absent."""
    column: str | None = None
    """A column that holds the list of options."""
    template: str = "{{ choice }}"
    """Jinja template of one entry of ``column``, as ``choice``."""

    @model_validator(mode="after")
    def _one_way(self) -> ChoicesSpec:
        if (self.templates is None) == (self.column is None):
            raise ValueError("give either 'templates' (one per option) or 'column' (a list column)")
        return self


class FormatSpec(_Spec):
    """One prompt format of a task."""

    context: str
    """Jinja template of the prompt; sees the row's columns, ``choices`` and ``letters``."""
    continuations: Literal["choices", "letters"] = "choices"
    """What is scored: the options' texts, or their letters A, B, ..."""
    mode: str = CHOICE_MODE
    """How the model is asked: a name in the engine's `MODES`."""
    primary_metric: str = "acc"
    """The metric that is the score of a cell, one of `METRICS`; acc and acc_norm are computed too."""
    supervise: Literal["continuation", "text"] = "continuation"
    """What training learns: the right continuation only, or the whole text."""

    @field_validator("primary_metric")
    @classmethod
    def _is_known(cls, name: str) -> str:
        accepted = sorted(METRICS.keys() - {*HARNESS_METRICS})
        if name not in accepted:
            raise ValueError(f"unknown metric {name!r}; expected one of {accepted}")
        return name

    @field_validator("mode")
    @classmethod
    def _is_not_of_the_harness(cls, name: str) -> str:
        if name == HARNESS_MODE:
            raise ValueError(f"mode {name!r} is for tasks of lm-evaluation-harness alone; leave it out")
        return name


class HubSpec(_Spec):
    """A data set on the Hugging Face hub, one configuration per language."""

    dataset: str
    config: str = "{language}"
    """Name of the configuration; ``{language}`` is replaced."""
    revision: str | None = None
    """Commit; null takes the newest, which the run's manifest then records and keeps."""
    splits: dict[Literal["train", "test"], str] = {"train": "train", "test": "test"}
    """Names of the splits in the data set."""

    @field_validator("config")
    @classmethod
    def _only_the_language_is_replaced(cls, config: str) -> str:
        if set("{}") & set(config.replace("{language}", "")):
            raise ValueError(f"{config!r} cannot be filled in; only {{language}} is replaced in it")
        return config

    @model_validator(mode="after")
    def _both_splits(self) -> HubSpec:
        if missing := sorted({"train", "test"} - self.splits.keys()):
            raise ValueError(f"split {missing[0]!r} is missing in splits; expected 'train' and 'test'")
        return self


class RowsSpec(_Spec):
    """Where a custom task's rows are, whatever ``data.source`` says; exactly one of the two fields."""

    path: Path | None = None
    """Folder with ``LANG/{train,test}.jsonl`` or ``.parquet``, relative to the YAML file."""
    hub: HubSpec | None = None

    @model_validator(mode="after")
    def _one_place(self) -> RowsSpec:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either 'path' (a folder) or 'hub' (a data set)")
        return self


class TaskSpec(_Spec):
    """A multiple-choice task."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    id: str
    """Column with the item's id, the same in every language."""
    gold: str
    """Column with the right option: a letter, an index from 0, or a list of labels with one 1."""
    text: tuple[str, ...] = ()
    """Columns that hold the question; an empty one is refused."""
    choices: ChoicesSpec
    formats: dict[Literal["train", "eval"], FormatSpec]
    hub: HubSpec | None = None
    """Where ``data: {source: hub}`` finds the rows."""
    rows: RowsSpec | None = None
    construction: Literal["human-translated", "machine-translated", "written"] = "written"
    """How the languages came about; the analysis groups by it."""

    @model_validator(mode="after")
    def _both_formats(self) -> TaskSpec:
        if missing := sorted({"train", "eval"} - self.formats.keys()):
            raise ValueError(f"format {missing[0]!r} is missing; expected 'train' and 'eval'")
        return self


def read_task_spec(path: Path) -> TaskSpec:
    """Read a task's YAML file.

    Raises:
        UserError: If the file is missing, is not YAML, has a key twice, or has faults; all faults are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"task file {str(path)!r} cannot be read: {error}; expected a UTF-8 YAML file") from error
    raw = parse_yaml(text, f"task file {str(path)!r}")
    try:
        spec = TaskSpec.model_validate(raw)
    except ValidationError as error:
        raise UserError(describe_faults(error, TaskSpec, f"task file {str(path)!r}")) from error
    if spec.rows is not None and spec.rows.path is not None and not spec.rows.path.is_absolute():
        rows = spec.rows.model_copy(update={"path": path.parent / spec.rows.path})
        spec = spec.model_copy(update={"rows": rows})
    return spec
