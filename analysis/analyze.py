"""``grid analyze``: all tables of a run, written to files, and what to show of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from transfergrid.analysis.tables.build import Progress, build_tables
from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.analysis.terminal.hierarchy import hierarchy_rows, hierarchy_view
from transfergrid.analysis.terminal.matrix import MatrixView
from transfergrid.analysis.terminal.summary import summary
from transfergrid.analysis.terminal.table_view import TableView
from transfergrid.analysis.transfer.remarks import remark_lines
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import UserError
from transfergrid.store.files import csv_text, write_atomically, write_text
from transfergrid.store.folder import RunFolder
from transfergrid.wording import closest_hint

MATRIX, HIERARCHY = "matrix", "hierarchy"
"""Two ways to look at tables: language x language in colour, and rankings with their intervals."""


def shown_names() -> dict[str, str]:
    """Return what can be shown by name, each with what one row of it is about."""
    views = {
        MATRIX: "language_matrices in colour: language x language of every task",
        HIERARCHY: "roles as rankings, with the ranks that their intervals cover",
    }
    return {**{name: table.row for name, table in all_tables().items()}, **views}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisReport:
    """The tables of a run; shows the summary, or one table by name."""

    tables: AnalysisTables
    settings: AnalysisConfig
    shown: str | None
    """Name from `shown_names`; None: the summary."""
    metric: str = "accuracy"
    """What the matrix shows, one of `METRICS`."""
    folder: Path | None
    """Where the tables were written; None: nowhere."""

    def __rich__(self) -> RenderableType:
        """Show what was asked for and where the files are."""
        lines = [f"Remark: {line}." for line in remark_lines(self.tables.transfer)] if self.shown is not None else []
        content = Group(self._content(), *(Text(line, overflow="fold") for line in lines))
        if self.folder is None:
            return content
        return Group(content, Text(f"Every table: {self.folder}/NAME.parquet and .csv", overflow="fold"))

    def _content(self) -> RenderableType:
        if self.shown is None:
            return summary(self.tables, self.settings)
        if self.shown == MATRIX:
            return MatrixView(self.tables.language_matrices, self.metric)
        if self.shown == HIERARCHY:
            return hierarchy_view(self.tables.roles)
        return TableView(self.shown, self.tables[self.shown])

    def rows(self) -> pl.DataFrame:
        """Return the rows behind what is shown; the summary's are the regimes."""
        if self.shown == MATRIX:
            return self.tables.language_matrices
        if self.shown == HIERARCHY:
            return hierarchy_rows(self.tables.roles)
        return self.tables[self.shown or "regimes"]

    def as_json(self) -> Any:
        """Return the rows shown as a list of objects, or all tables as an object of such lists."""
        if self.shown is not None:
            return self.rows().to_dicts()
        return {name: table.to_dicts() for name, table in self.tables.named()}


def analyze(
    run: RunFolder,
    config: GridConfig | None = None,
    *,
    table: str | None = None,
    metric: str = "accuracy",
    write: bool = True,
    on_progress: Progress | None = None,
) -> AnalysisReport:
    """Compute every table of a run and write each as Parquet and CSV.

    Args:
        run: The run's folder; tables go to its ``tables`` folder.
        config: Expected cells and seeds, models' traits and the analysis' settings; None: what is there, defaults.
        table: Name from `shown_names` to show; None shows the summary.
        metric: What the matrix shows, ``accuracy`` or ``graded``; other tables have both.
        write: Write the files.
        on_progress: Called with each table's name before it is computed.

    Raises:
        UserError: If there is nothing to analyse, a file is unusable, there is no such table, or a metric is asked for
            where nothing but the matrix has one.
    """
    if table is not None and table not in (names := list(shown_names())):
        raise UserError(f"unknown table {table!r}; expected one of {names}{closest_hint(table, names)}")
    if metric != "accuracy" and table != MATRIX:
        raise UserError(f"--metric {metric} is for 'grid analyze {MATRIX}'; other tables have columns of both metrics")
    tables = build_tables(run, config, on_progress=on_progress)
    if write:
        write_tables(tables, run.tables)
    settings = config.analysis if config is not None else AnalysisConfig()
    return AnalysisReport(
        tables=tables, settings=settings, shown=table, metric=metric, folder=run.tables if write else None
    )


def write_tables(tables: AnalysisTables, folder: Path) -> None:
    """Write every table as Parquet and CSV, each file at once.

    Raises:
        UserError: If the folder cannot be written.
    """
    try:
        for name, table in tables.named():
            write_atomically(folder / f"{name}.parquet", table.write_parquet)
            write_text(folder / f"{name}.csv", csv_text(table))
    except OSError as error:
        raise UserError(
            f"the tables cannot be written to {str(folder)!r}: {error.strerror or error}; make room there "
            "or name another --run"
        ) from error
