"""Where rows come from: bundled items, local folders, saved data sets, the hub."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import polars as pl

from transfergrid.benchmarks.spec import HubSpec, TaskSpec
from transfergrid.config.settings import DataConfig
from transfergrid.grid import LANGUAGES, TASKS, UserError
from transfergrid.store.data_manifest import HubPin
from transfergrid.store.json_text import read_json_lines

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a UTF-8 file of one JSON object per line; NaN and Infinity are missing values.

    Raises:
        UserError: If the file cannot be read or a line is not a JSON object; names the line.
    """
    rows = []
    for number, row in read_json_lines(path, allow_nan=True):
        if not isinstance(row, dict):
            raise UserError(f"line {number} of {str(path)!r} is not a JSON object but {repr(row)[:60]!r}")
        rows.append(_without_missing(row))
    return rows


def _without_missing(value: Any) -> Any:
    """Return a row with None for every value that is missing: NaN, as pandas and Polars write it, and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_missing(each) for key, each in value.items()}
    return [_without_missing(each) for each in value] if isinstance(value, list) else value


def read_split(folder: Path, split: Split) -> list[dict[str, Any]]:
    """Read one split from ``folder``: JSONL, Parquet or a saved DatasetDict.

    Raises:
        UserError: If none of them is there, or it cannot be read.
    """
    jsonl, parquet = folder / f"{split}.jsonl", folder / f"{split}.parquet"
    if jsonl.is_file():
        return read_jsonl(jsonl)
    if parquet.is_file():
        try:
            return [_without_missing(row) for row in pl.read_parquet(parquet).iter_rows(named=True)]
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise UserError(f"{parquet} cannot be read as Parquet: {error}") from error
    if (folder / "dataset_dict.json").is_file():
        return _read_saved_dataset(folder, split)
    raise UserError(
        f"no {split} rows in {str(folder)!r}; expected {split}.jsonl, {split}.parquet or a saved DatasetDict there"
    )


def _read_saved_dataset(folder: Path, split: Split) -> list[dict[str, Any]]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
        if split not in saved:
            raise UserError(f"the saved DatasetDict in {str(folder)!r} has no split {split!r}; it has {sorted(saved)}")
        return [_without_missing(row) for row in saved[split]]
    except UserError:
        raise
    except Exception as error:  # Arrow has errors of its own
        raise UserError(f"{str(folder)!r} cannot be read as a saved DatasetDict: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


class RowSource:
    """Reads the rows of a task, language and split from where a configuration says.

    Args:
        data: The configuration's data section.
        pinned: What an earlier manifest recorded, by task; taken where neither the configuration nor the task's file
            names a revision, and only for the same data set.
    """

    def __init__(self, data: DataConfig, pinned: Mapping[str, HubPin] | None = None) -> None:
        self._data = data
        self._pinned = dict(pinned or {})
        self.pins: dict[str, HubPin] = {}
        """What was read from the hub, by task."""

    def read(self, spec: TaskSpec, language: str, split: Split) -> list[dict[str, Any]]:
        """Return the rows as they are in the source.

        Raises:
            UserError: If they are not there or cannot be read.
        """
        if spec.rows is not None:
            if spec.rows.path is not None:
                return read_split(spec.rows.path / language, split)
            return self._from_hub(spec.name, spec.rows.hub, language, split, otherwise="give rows.path in its file")
        if self._data.source == "hub":
            return self._from_hub(
                spec.name, spec.hub, language, split, otherwise="set data.source to 'bundled' or 'local'"
            )
        if self._data.source == "local":
            assert self._data.path is not None  # DataConfig requires it for this source
            return read_split(self._data.path / spec.name / language, split)
        return self._bundled(spec.name, language, split)

    @staticmethod
    def _bundled(task: str, language: str, split: Split) -> list[dict[str, Any]]:
        if task not in TASKS or language not in LANGUAGES:
            raise UserError(
                f"no bundled items for {task}-{language}; bundled are {list(TASKS)} in {list(LANGUAGES)}; "
                "for others set data.source to 'local' or 'hub'"
            )
        return read_split(Path(str(files("transfergrid.benchmarks_data"))) / task / language, split)

    def _from_hub(
        self, task: str, hub: HubSpec | None, language: str, split: Split, *, otherwise: str
    ) -> list[dict[str, Any]]:
        """Read rows of the hub; ``otherwise`` is another place that the message names."""
        if hub is None:
            raise UserError(f"task {task!r} names no hub data set; add 'hub' to its YAML file or use 'source: local'")
        import datasets

        what = "its newest commit"
        try:
            revision = self._revision(task, hub)
            what = f"{language} {split}"
            rows = datasets.load_dataset(
                hub.dataset, hub.config.replace("{language}", language), split=hub.splits[split], revision=revision
            )
        except Exception as error:
            raise UserError(
                f"hub data set {hub.dataset!r} of task {task!r} ({what}) cannot be read: {_first_line(error)}; "
                f"check the network and 'hf auth login', or {otherwise}"
            ) from error
        return [_without_missing(row) for row in rows]

    def _revision(self, task: str, hub: HubSpec) -> str:
        """Return the commit to read, resolving it once per task so that all languages agree."""
        if task not in self.pins:
            pin = self._pinned.get(task)
            recorded = pin.revision if pin is not None and pin.dataset == hub.dataset else None
            named = self._data.revisions.get(task) or hub.revision or recorded
            self.pins[task] = HubPin(hub.dataset, named or _newest_commit(hub))
        return self.pins[task].revision


def _newest_commit(hub: HubSpec) -> str:
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(hub.dataset, timeout=20).sha)
