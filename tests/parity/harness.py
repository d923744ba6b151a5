"""Runs lm-evaluation-harness on the bundled rows with task files of our own, and reads our items from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.tasks import get_task
from transfergrid.grid import TASKS, Cell

LANGUAGES = ("en", "ar", "hi", "zh")
CELLS = tuple(Cell(task, language) for task in TASKS for language in LANGUAGES)

_HERE = Path(__file__).parent
_ROWS = _HERE.parent.parent / "benchmarks_data"


@dataclass(frozen=True, slots=True)
class HarnessItem:
    """What lm-evaluation-harness says about one item."""

    item_id: str
    loglikelihoods: tuple[float, ...]
    requests: tuple[tuple[str, str], ...]
    metrics: dict[str, float]


def rows_file(cell: Cell) -> Path:
    """Return the bundled test rows of a cell."""
    return _ROWS / cell.task / cell.language / "test.jsonl"


@cache
def load_cell(cell: Cell, n_items: int) -> tuple[Item, ...]:
    """Return our items of the first rows of a cell, as they are scored."""
    from transfergrid.benchmarks.rows import read_jsonl

    task = get_task(cell.task)
    rows = list(read_jsonl(rows_file(cell)))[:n_items]
    return tuple(task.formats["eval"].build(task.question(row)) for row in rows)


def harness_task(cell: Cell, cache_folder: Path) -> dict[str, Any]:
    """Return the configuration of lm-evaluation-harness's task for a cell."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(_HERE / "tasks" / f"{cell.task}.yaml")
    files = {"data_files": {"test": str(rows_file(cell))}, "cache_dir": str(cache_folder)}
    return {**config, "task": f"{config['task']}_{cell.language}", "dataset_kwargs": files}


def run_harness(
    model: Any, cells: Sequence[Cell], cache_folder: Path, *, chat_template: bool, n_items: int
) -> dict[Cell, list[HarnessItem]]:
    """Evaluate the first rows of some cells with lm-evaluation-harness."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = {cell: harness_task(cell, cache_folder) for cell in cells}
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=list(tasks.values()),
        task_manager=TaskManager(include_defaults=False),  # its own 14,000 task files are not read
        limit=n_items,
        apply_chat_template=chat_template,
        bootstrap_iters=0,
        log_samples=True,
    )
    return {
        cell: [
            _read_sample(sample, get_task(cell.task).id_column)
            for sample in sorted(results["samples"][config["task"]], key=lambda sample: sample["doc_id"])
        ]
        for cell, config in tasks.items()
    }


def _read_sample(sample: dict[str, Any], id_column: str) -> HarnessItem:
    return HarnessItem(
        item_id=sample["doc"][id_column],
        loglikelihoods=tuple(float(response[0]) for response in sample["filtered_resps"]),
        requests=tuple((argument[0], argument[1]) for argument in _arguments(sample)),
        metrics={name: sample[name] for name in sample["metrics"]},
    )


def _arguments(sample: dict[str, Any]) -> list[tuple[str, str]]:
    """Return context and continuation of every request of a sample."""
    arguments = sample["arguments"]
    return list(arguments.values()) if isinstance(arguments, dict) else list(arguments)
