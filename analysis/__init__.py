"""Log-likelihoods to deltas, regimes, roles, variance, significance and reports; reads files, never a model.

The names below are what a Python user needs; docs/python.md shows them at work. They load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfergrid.analysis.report.page import write_report
    from transfergrid.analysis.tables.build import build_tables
    from transfergrid.analysis.tables.table import AnalysisTables
    from transfergrid.analysis.terminal.recommendation import recommend
    from transfergrid.config.file import load_config
    from transfergrid.grid import Cell
    from transfergrid.store.folder import RunFolder

_HOMES = {
    "AnalysisTables": "analysis.tables.table",
    "Cell": "grid",
    "RunFolder": "store.folder",
    "build_tables": "analysis.tables.build",
    "load_config": "config.file",
    "recommend": "analysis.terminal.recommendation",
    "write_report": "analysis.report.page",
}

__all__ = ["AnalysisTables", "Cell", "RunFolder", "build_tables", "load_config", "recommend", "write_report"]


def __getattr__(name: str) -> Any:
    """Load a name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"transfergrid.{_HOMES[name]}"), name)
