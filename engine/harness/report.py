"""What ``grid lm-eval`` found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from transfergrid.engine.harness.results import count_cut, read_scores
from transfergrid.wording import count

SCHEMA = {"task": pl.String, "source": pl.String, "metric": pl.String, "value": pl.Float64, "stderr": pl.Float64}


@dataclass(frozen=True, slots=True)
class HarnessReport:
    """The scores of all sources on all tasks, read from the results files."""

    output: Path
    scores: pl.DataFrame
    """Columns of ``SCHEMA``, tasks and sources in the order in which they were asked for."""
    n_run: int
    """(source, task) pairs that this run evaluated; the others were there."""
    n_pairs: int
    failures: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    """What makes scores other than they seem."""

    @property
    def is_complete(self) -> bool:
        """Whether every source has its scores on every task."""
        return not self.failures

    def rows(self) -> pl.DataFrame:
        """Return the scores."""
        return self.scores

    def as_json(self) -> Any:
        """Return scores and failures."""
        return {
            "output": str(self.output),
            "scores": self.scores.to_dicts(),
            "failures": list(self.failures),
            "remarks": list(self.remarks),
        }

    def __rich__(self) -> RenderableType:
        """Show the scores as a table, then where they lie and how to go on."""
        table = Table(*SCHEMA, box=box.SIMPLE_HEAD, pad_edge=False)
        for task, source, metric, value, error in self.scores.iter_rows():
            table.add_row(task, source, metric, f"{value:.4f}", "" if error is None else f"{error:.4f}")
        closing = (
            f"{count(self.n_pairs, '(source, task) pair')} in {self.output}, {self.n_run:,} of them from this run; "
            f"'grid import lm-eval {self.output}' reads adapters in folders named TASK-LANG for 'grid analyze'"
        )
        lines = [*self.remarks, *(f"failed: {failure}" for failure in self.failures)]
        return Group(table, Text(closing), *map(Text, lines))


def make_report(
    output: Path, paths: Mapping[tuple[str, str], Path], *, n_run: int, failures: tuple[str, ...]
) -> HarnessReport:
    """Read the results files of (task, source) pairs."""
    rows = [
        (task, source, metric, value, error)
        for (_, source), path in paths.items()
        for task, metric, value, error in read_scores(path)
    ]
    scores = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return HarnessReport(output, scores, n_run, len(paths), failures, tuple(_cut_remarks(paths)))


def _cut_remarks(paths: Mapping[tuple[str, str], Path]) -> Iterator[str]:
    """Say once per task that contexts were cut; all sources are asked the same."""
    found = {task: count_cut(path) for (task, _), path in paths.items()}
    for task, (n_cut, n_all) in found.items():
        if n_cut:
            yield (
                f"{task}: {n_cut:,} of {n_all:,} prompts lost their beginning, since they are longer than "
                "engine.max_model_len; raise it, or use fewer shots"
            )
