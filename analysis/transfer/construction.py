"""How a task's items were made in their languages: translated by people or machines, or written."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.settings import GridConfig
from transfergrid.grid import TASKS
from transfergrid.store.data_manifest import read_manifest
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import scan_scores

UNKNOWN_CONSTRUCTION = "unknown"
BUNDLED_CONSTRUCTION = "written"

STUDY_SOURCE = "hub"
"""Value of ``data.source`` whose items are the study's."""


def constructions(tasks: Iterable[str], source: str | None, config: GridConfig | None = None) -> dict[str, str]:
    """Return each task's construction: human-translated, machine-translated, written or unknown.

    Args:
        tasks: Names of tasks.
        source: Where the items came from, as in ``data.source``: ``bundled`` items were written for the project, the
            ``hub``'s are the study's, ``local`` ones are unknown; None: not known.
        config: Names custom tasks, whose files say it whatever the source.
    """
    return {task: _construction(task, source, config) for task in tasks}


def _construction(task: str, source: str | None, config: GridConfig | None) -> str:
    custom = config.custom_tasks if config is not None else {}
    if task in custom or (task in TASKS and source == STUDY_SOURCE):
        return str(get_task(task, custom).spec.construction)
    return BUNDLED_CONSTRUCTION if task in TASKS and source == "bundled" else UNKNOWN_CONSTRUCTION


def item_source(run: RunFolder, config: GridConfig | None) -> str | None:
    """Return where a run's own items came from: as its data manifest says, else as configured; None: not known."""
    manifest = read_manifest(run.data)
    if manifest is not None:
        return manifest.source
    return config.data.source if config is not None else None


def construction_expr(rows: pl.DataFrame, run: RunFolder, config: GridConfig | None) -> pl.Expr:
    """Return how the target's items were made: the run's own for models scored here, the study's for imported ones.

    Args:
        rows: Transfer table with ``model`` and ``target_task``.
        run: The run's folder; its store names the models scored here, its data manifest the source of their items.
        config: Names custom tasks.
    """
    tasks = rows["target_task"].unique().to_list()
    scored_here = scan_scores(run.scores.glob("*.parquet")).select(pl.col("model").unique()).collect().to_series()
    own, study = (
        pl.col("target_task").replace_strict(constructions(tasks, source, config), return_dtype=pl.String)
        for source in (item_source(run, config), STUDY_SOURCE)
    )
    return pl.when(pl.col("model").is_in(scored_here.to_list())).then(own).otherwise(study)
