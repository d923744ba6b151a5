"""Where a run keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transfergrid.grid import Cell, Source

RECORD_FILE = "training.json"
"""Record in an adapter's folder of how it was made."""
FAILURE_SUFFIX = ".failed.json"
"""After the name of an adapter's folder: the note beside it that says why it failed."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps its files; nothing here touches the disk."""

    root: Path

    @property
    def data(self) -> Path:
        """Materialised items: ``data/TASK/LANG/{train,test}.jsonl`` and ``data/manifest.json``."""
        return self.root / "data"

    @property
    def adapters(self) -> Path:
        """Trained adapters of all models and seeds."""
        return self.root / "adapters"

    @property
    def tracking(self) -> Path:
        """Files of experiment trackers, ``tracking/MODEL/sSEED/TASK-LANG``."""
        return self.root / "tracking"

    @property
    def scores(self) -> Path:
        """The results store: immutable Parquet parts."""
        return self.root / "scores"

    @property
    def noise_floor(self) -> Path:
        """Flips of predictions between two runs of the base model, per cell."""
        return self.root / "noise_floor"

    @property
    def imported(self) -> Path:
        """Tables and item rows that came from outside: ``*.parquet`` aggregates, ``scores/*.parquet`` items."""
        return self.root / "imported"

    @property
    def tables(self) -> Path:
        """Tables written by ``grid analyze``."""
        return self.root / "tables"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report.html"

    def adapter(self, model: str, seed: int, source: Source | Cell) -> Path:
        """Folder of one adapter; ``model`` is the configuration's model name, a cell stands for its usual adapter."""
        return self.adapters / model / f"s{seed}" / source.name
