"""What ``grid lm-eval`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from transfergrid.engine.harness.results import read_scores
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

    @property
    def is_complete(self) -> bool:
        """Whether every source has its scores on every task."""
        return not self.failures

    def rows(self) -> pl.DataFrame:
        """Return the scores."""
        return self.scores

    def as_json(self) -> Any:
        """Return scores and failures."""
        return {"output": str(self.output), "scores": self.scores.to_dicts(), "failures": list(self.failures)}

    def __rich__(self) -> RenderableType:
        """Show the scores as a table, then where they lie and how to go on."""
        table = Table(*SCHEMA, box=box.SIMPLE_HEAD, pad_edge=False)
        for task, source, metric, value, error in self.scores.iter_rows():
            table.add_row(task, source, metric, f"{value:.4f}", "" if error is None else f"{error:.4f}")
        closing = (
            f"{count(self.n_pairs, '(source, task) pair')} in {self.output}, {self.n_run:,} of them from this run; "
            f"'grid import lm-eval {self.output}' reads adapters in folders named TASK-LANG for 'grid analyze'"
        )
        return Group(table, Text(closing), *(Text(f"failed: {failure}") for failure in self.failures))


def make_report(
    output: Path, paths: Mapping[tuple[str, str], Path], *, n_run: int, failures: tuple[str, ...]
) -> HarnessReport:
    """Read the results files of (task, source) pairs."""
    rows = [
        (task, source, metric, value, error)
        for (_, source), path in paths.items()
        for task, metric, value, error in read_scores(path)
    ]
    return HarnessReport(output, pl.DataFrame(rows, schema=SCHEMA, orient="row"), n_run, len(paths), failures)
