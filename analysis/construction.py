"""How a task's items came to be in their languages."""

from __future__ import annotations

from collections.abc import Iterable

from transfergrid.benchmarks.tasks import get_task
from transfergrid.config import GridConfig
from transfergrid.grid import TASKS

UNKNOWN_CONSTRUCTION = "unknown"


def constructions(tasks: Iterable[str], config: GridConfig | None = None) -> dict[str, str]:
    """Return each task's construction: human-translated, machine-translated, written or unknown.

    Args:
        tasks: Names of tasks.
        config: Names custom tasks; its bundled data are written for the project. None: the study's data sets.
    """
    return {task: _construction(task, config) for task in tasks}


def _construction(task: str, config: GridConfig | None) -> str:
    custom = config.custom_tasks if config is not None else {}
    if task not in TASKS and task not in custom:
        return UNKNOWN_CONSTRUCTION
    if task not in custom and config is not None and config.data.source == "bundled":
        return "written"
    return str(get_task(task, custom).spec.construction)
