"""The items of a cell, from a run's materialised rows."""

from __future__ import annotations

from pathlib import Path

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.rows import Split, read_jsonl
from transfergrid.benchmarks.tasks import FormatName, Task
from transfergrid.grid import UserError


def load_items(data_folder: Path, task: Task, language: str, split: Split, format_name: FormatName) -> list[Item]:
    """Return the items of one cell and split in one prompt format.

    Args:
        data_folder: ``RUN/data``, written by ``grid data``.
        task: The task, from ``get_task``.
        language: Language of the cell.
        split: ``train`` or ``test``.
        format_name: ``train`` or ``eval``.

    Raises:
        UserError: If the rows are not there.
    """
    path = data_folder / task.name / language / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"no materialised rows at {str(path)!r}; run 'grid data' first")
    build = task.formats[format_name].build
    return [build(task.question(row)) for row in read_jsonl(path)]
