"""A task of lm-evaluation-harness in all its languages: rows as questions, under ids that mean the same item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from transfergrid.benchmarks.alignment import Questions, ReadTask, TaskCheck, languages_together
from transfergrid.benchmarks.harness.index import FoundTask
from transfergrid.benchmarks.harness.rows import HarnessReader, Rows
from transfergrid.benchmarks.rows import SPLITS
from transfergrid.benchmarks.tasks import Question, RowError, Task
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.store.files import hash_files
from transfergrid.wording import listed

_TASK_FILES = (".yaml", ".yml", ".py", ".jinja")


def request_parts(config: GridConfig, name: str) -> list[Any]:
    """Return what decides a task's rows, as JSON: its settings, files of one's own, and how prompts are made."""
    asked, prompts = config.harness_tasks[name], config.prompts
    files = [] if asked.include_path is None else sorted(asked.include_path.rglob("*"))
    return [
        asked.model_dump(mode="json", exclude={"include_path", *([] if asked.metric else ["metric"])}),
        hash_files(file for file in files if file.suffix in _TASK_FILES and file.is_file()),
        prompts.shots,
        prompts.shots_seed,
        prompts.eval_chat_template,
        prompts.shots_as_turns,
    ]


def read_harness_task(
    task: Task,
    asked: HarnessTask,
    found: Mapping[str, FoundTask],
    reader: HarnessReader,
    *,
    on_cell: Callable[[str, str], None] | None,
    strict: bool,
) -> ReadTask:
    """Read a task of the harness in all its languages.

    Args:
        task: The task.
        asked: Its settings.
        found: The harness' task by language.
        reader: Reads the documents.
        on_cell: Called with task and language before a language is read.
        strict: Whether languages share their items only where they have the same ones.

    Raises:
        UserError: If the harness cannot load it or fails on it, or it cannot be a cell.
    """
    check = TaskCheck()
    splits: dict[Any, dict[str, dict[str, Question]]] = {split: {} for split in SPLITS}
    metrics, origins = {}, []
    for language, its_task in found.items():
        if on_cell is not None:
            on_cell(task.name, language)
        rows = reader.read(its_task, asked.languages[language], train=asked.train, metric=asked.metric)
        metrics[rows.metric] = language
        origins.append(rows.origin)
        for split, of_split in (("train", rows.train), ("test", rows.test)):
            splits[split][language] = _questions(task, of_split, f"{task.name} {language} {split}", check.faults)
    if len(metrics) > 1:
        check.faults.append(f"{task.name}: its languages have different metrics, {sorted(metrics)}; expected one")
    if _are_numbered_by_split(splits["train"], splits["test"]):
        splits["train"] = {language: _renamed(each, "train") for language, each in splits["train"].items()}
    together = languages_together(splits, strict=strict)
    for (language,) in together[1:]:
        for split in SPLITS:
            splits[split][language] = _renamed(splits[split][language], language)
    if len(together) > 1:
        check.remarks.append(_standing_alone(task.name, together))
    return ReadTask(splits, check, together, next(iter(metrics)), "; ".join(dict.fromkeys(origins)))


def _questions(task: Task, rows: Rows, where: str, faults: list[str]) -> dict[str, Question]:
    questions = {}
    for row in rows:
        try:
            question = task.question(row)
            if question.empty_choices:
                raise RowError(f"item {question.item_id!r}: choice {question.empty_choices[0]} is empty; expected text")
        except RowError as error:
            faults.append(f"{where}: {error}")
        else:
            questions[question.item_id] = question
    return questions


def _are_numbered_by_split(train: Questions, test: Questions) -> bool:
    """Whether ids stand in both splits of a language, and always for other documents."""
    pairs = [
        (train[language][item_id].row, test[language][item_id].row)
        for language in test
        for item_id in train[language].keys() & test[language].keys()
    ]
    return bool(pairs) and not any(
        one["context"] == other["context"] and one["choices"] == other["choices"] for one, other in pairs
    )


def _renamed(questions: Mapping[str, Question], prefix: str) -> dict[str, Question]:
    """Return questions with a prefix before their ids."""
    renamed = {}
    for question in questions.values():
        item_id = f"{prefix}/{question.item_id}"
        renamed[item_id] = replace(question, item_id=item_id, row={**question.row, "id": item_id})
    return renamed


def _standing_alone(name: str, together: list[list[str]]) -> str:
    alone = listed([language for group in together[1:] for language in group], 12)
    others = f"; only {listed(together[0], 12)} share theirs" if len(together[0]) > 1 else ""
    return (
        f"{name}: the items of {alone} differ from those of other languages by id or right answer{others}; between "
        "languages that share no items, MT-CL compares different questions, and a train item that translates a test "
        "item would not be noticed"
    )
