"""The record of the items in a run folder: what was asked for, what was read, what was left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from transfergrid.grid import UserError
from transfergrid.store.json_text import JsonError, read_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class DataManifest:
    """What ``grid data`` wrote."""

    request_hash: str
    """Hash of what was asked for: data section, tasks with their descriptions, languages."""
    source: str
    revisions: dict[str, str]
    """Hub commits that were read, by task; of tasks of lm-evaluation-harness its version and theirs."""
    counts: dict[str, dict[str, int]]
    """Items per task and split, in its first language; all languages that share their items have the same."""
    dropped: dict[str, int]
    """Ids left out by ``align: intersect``, per task."""
    remarks: list[str]
    """Duplicate choices and the like."""
    languages: list[str]
    hashes: dict[str, str]
    """SHA-256 of every cell's files."""
    datasets: dict[str, str] = field(default_factory=dict)
    """Hub data sets that were read, by task."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Metric of every task of lm-evaluation-harness."""
    together: dict[str, list[list[str]]] = field(default_factory=dict)
    """Languages of such a task that share their items, group by group."""

    @property
    def pins(self) -> dict[str, HubPin]:
        """What was read from the hub, by task."""
        return {task: HubPin(name, self.revisions[task]) for task, name in self.datasets.items()}

    def __rich__(self) -> Table:
        """Render as a table, one row per task."""
        own = [self.source] if self.counts.keys() - self.metrics.keys() else []
        sources = ", ".join([*own, *(["lm-evaluation-harness"] if self.metrics else [])])
        title = f"Data ({sources}), {len(self.languages)} languages: {' '.join(self.languages)}"
        table = Table(title=escape(title))
        for name in ("task", "train items", "test items", "left out"):
            table.add_column(name, justify="left" if name == "task" else "right")
        for task, counts in self.counts.items():
            table.add_row(Text(task), str(counts["train"]), str(counts["test"]), str(self.dropped.get(task, 0)))
        return table

    def rows(self) -> pl.DataFrame:
        """Return one row per task."""
        names = ("task", "n_train", "n_test", "n_left_out")
        counts = [(task, n["train"], n["test"], self.dropped.get(task, 0)) for task, n in self.counts.items()]
        return pl.DataFrame(counts, schema=names, orient="row")

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)


def read_manifest(folder: Path) -> DataManifest | None:
    """Return the manifest of a data folder; None if there is none.

    Raises:
        UserError: If the file cannot be read or holds something else.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = TypeAdapter(DataManifest).validate_python(read_json(path))
        manifest.rows(), manifest.pins  # every task has its counts, every data set its revision
        return manifest
    except (JsonError, ValidationError, KeyError, OverflowError) as error:
        reason = error.reason if isinstance(error, JsonError) else "it is not a manifest of items"
        raise UserError(f"{str(path)!r} cannot be read: {reason}; remove it and run 'grid data' again") from error


class HubPin(NamedTuple):
    """A commit of a hub data set."""

    dataset: str
    revision: str
