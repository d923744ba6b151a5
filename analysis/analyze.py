"""``grid analyze``: all tables of a run, written to files, and what to show of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from transfergrid.analysis.summary import summary, table_view
from transfergrid.analysis.tables import AnalysisTables, Progress, build_tables, check_table_name
from transfergrid.benchmarks.files import write_atomically, write_text
from transfergrid.config import AnalysisConfig, GridConfig
from transfergrid.grid import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisReport:
    """The tables of a run; shows the summary, or one table by name."""

    tables: AnalysisTables
    settings: AnalysisConfig
    shown: str | None
    """Name of the table to show; None: the summary."""
    folder: Path | None
    """Where the tables were written; None: nowhere."""

    def __rich__(self) -> RenderableType:
        """Show what was asked for and where the files are."""
        if self.shown is None:
            content = summary(self.tables, self.settings)
        else:
            content = table_view(self.shown, self.tables.get(self.shown))
        if self.folder is None:
            return content
        return Group(content, Text(f"Every table: {self.folder}/NAME.parquet and .csv"))

    def to_json(self) -> str:
        """Return the table shown as a JSON list of rows, or all tables as an object of such lists."""
        if self.shown is not None:
            return json_rows(self.tables.get(self.shown))
        parts = [f"{json.dumps(name)}: {json_rows(table)}" for name, table in self.tables.named()]
        return "{" + ",\n".join(parts) + "}"

    def to_csv(self) -> str:
        """Return the table shown as CSV; without one, the regimes."""
        return self.tables.get(self.shown or "regimes").write_csv()


def json_rows(table: pl.DataFrame) -> str:
    """Return a table as a JSON list of objects; null stays null."""
    return table.write_json()


def analyze(
    run: RunFolder,
    config: GridConfig | None = None,
    *,
    table: str | None = None,
    write: bool = True,
    on_progress: Progress | None = None,
) -> AnalysisReport:
    """Compute every table of a run and write each as Parquet and CSV.

    Args:
        run: The run's folder; tables go to its ``tables`` folder.
        config: Expected cells and seeds, models' traits and the analysis' settings; None: what is there, defaults.
        table: Name of the table to show; None shows the summary.
        write: Write the files.
        on_progress: Called with each table's name before it is computed.

    Raises:
        UserError: If there is nothing to analyse, a file is unusable, or there is no such table.
    """
    if table is not None:
        check_table_name(table)
    tables = build_tables(run, config, on_progress=on_progress)
    if write:
        write_tables(tables, run.tables)
    settings = config.analysis if config is not None else AnalysisConfig()
    return AnalysisReport(tables=tables, settings=settings, shown=table, folder=run.tables if write else None)


def write_tables(tables: AnalysisTables, folder: Path) -> None:
    """Write every table as Parquet and CSV, each file at once."""
    for name, table in tables.named():
        write_atomically(folder / f"{name}.parquet", table.write_parquet)
        write_text(folder / f"{name}.csv", table.write_csv())
