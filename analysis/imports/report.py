"""What an import brought in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from rich.text import Text

from transfergrid.wording import count


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import brought in."""

    path: Path
    """File or folder that was written."""
    n_rows: int
    what: str
    """What a row is."""
    models: tuple[str, ...]
    n_sources: int
    n_targets: int
    remarks: tuple[str, ...] = field(default=())

    def __rich__(self) -> Text:
        """Say what was brought in."""
        lines = [
            f"{self.n_rows} {self.what} of {count(len(self.models), 'model')}, {count(self.n_sources, 'source')} and "
            f"{count(self.n_targets, 'target')}, written to {self.path}",
            *self.remarks,
        ]
        return Text("\n".join(lines))

    def rows(self) -> pl.DataFrame:
        """Return one row of counts."""
        counts = {"path": str(self.path), "n_rows": self.n_rows, "n_models": len(self.models)}
        return pl.DataFrame([{**counts, "n_sources": self.n_sources, "n_targets": self.n_targets}])

    def as_json(self) -> dict[str, Any]:
        """Return everything that was counted."""
        return {**asdict(self), "path": str(self.path)}


def summarise_import(path: Path, table: pl.DataFrame, what: str, remarks: tuple[str, ...] = ()) -> ImportReport:
    """Count what a table of imported rows holds."""
    adapters = table.filter(pl.col("source_task").is_not_null())
    return ImportReport(
        path,
        table.height,
        what,
        tuple(table["model"].unique().sort()),
        adapters.select("source_task", "source_language").n_unique(),
        table.select("target_task", "target_language").n_unique(),
        remarks,
    )
