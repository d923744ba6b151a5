"""A folder of task files for lm-evaluation-harness with local data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

TASK: dict[str, Any] = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "training_split": "train",
    "test_split": "test",
    "fewshot_split": "train",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


def documents(split: str, language: str, count: int) -> list[dict[str, Any]]:
    """Return documents with the same ids and golds in every language."""
    return [
        {"id": f"{split}-{n}", "question": f"{language} {split} {n}?", "choices": ["a", f"be {n}", "c"], "gold": n % 3}
        for n in range(count)
    ]


def write_task(
    folder: Path, name: str, test: Sequence[Any], train: Sequence[Any] | None = None, **settings: Any
) -> None:
    """Write one task's file and data; without train documents it has no training split."""
    splits = {"test": test, **({} if train is None else {"train": train})}
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{name}.{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {**TASK, "task": name, "dataset_kwargs": {"data_files": files}, **settings}
    if train is None:
        task = {key: value for key, value in task.items() if key not in ("training_split", "fewshot_split")}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")


def write_languages(folder: Path, name: str, languages: Sequence[str], **settings: Any) -> Path:
    """Write a task in several languages, with items that they share."""
    folder.mkdir(exist_ok=True)
    for each in languages:
        write_task(folder, f"{name}_{each}", documents("test", each, 5), documents("train", each, 4), **settings)
    return folder
