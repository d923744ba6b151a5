"""The items of a cell, from a run's materialised rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.rows import Split, read_jsonl
from transfergrid.benchmarks.tasks import FormatName, Task
from transfergrid.config.prompts import PromptConfig
from transfergrid.grid import UserError
from transfergrid.store.files import hash_text


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


def shot_ids(train: Sequence[Item], prompts: PromptConfig) -> list[str]:
    """Return the ids of the train items that stand solved before scored ones, the same in every language.

    Raises:
        UserError: If there are fewer train items than shots.
    """
    if prompts.shots > len(train):
        raise UserError(f"prompts.shots is {prompts.shots}, and a cell has {len(train)} train items; lower it")
    ids = [item.item_id for item in train]
    if prompts.shots_seed is not None:
        ids.sort(key=lambda item_id: hash_text(str(prompts.shots_seed), item_id))
    return ids[: prompts.shots]


def with_shots(items: Sequence[Item], train: Sequence[Item], prompts: PromptConfig) -> list[Item]:
    """Return items with solved train items before each; one that asks the same is left out.

    Args:
        items: Of one cell, in the format that is scored.
        train: Train items of the same cell and format, in the order of their file.
        prompts: How many shots, and which.

    Raises:
        UserError: If there are fewer train items than shots.

    Source:
        Without a seed, the sampler ``first_n`` of EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/samplers.py.
    """
    if not prompts.shots:
        return list(items)
    by_id = {item.item_id: item for item in train}
    shots = [
        (by_id[item_id].context, by_id[item_id].choices[by_id[item_id].gold]) for item_id in shot_ids(train, prompts)
    ]
    return [replace(item, shots=tuple(shot for shot in shots if shot[0] != item.context)) for item in items]
