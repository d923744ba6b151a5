"""Documents of lm-evaluation-harness as rows: its prompts, its examples and its golds, under an id."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from transfergrid.benchmarks.harness import TaskIndex
from transfergrid.benchmarks.tasks import RowError
from transfergrid.config.harness import HarnessTask
from transfergrid.config.prompts import PromptConfig
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.files import hash_text
from transfergrid.store.provenance import installed_version
from transfergrid.wording import one_line

OF_THE_HARNESS = (ValueError, KeyError, TypeError, IndexError, AssertionError, jinja2.TemplateError)
"""What the harness raises where a task, its data and the options do not fit together."""
_METRICS = ("acc_norm", "acc")
_IDS = (
    ("id",),
    ("idx",),
    ("sample_id",),
    ("question_id",),
    ("item_id",),
    ("qid",),
    ("guid",),
    ("truth_id",),
    ("ind",),
    ("InputStoryid",),
    ("link", "question_number"),
)
"""Columns that name a document, the first of them that a split has and in which no two documents agree."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FoundTask:
    """A task, group or tag of the harness."""

    index: TaskIndex
    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its file says; nothing of a tag."""
        return getattr(self.index.manager.task_index.get(self.name), "cfg", None) or {}


class CellRows(NamedTuple):
    """The documents of one cell."""

    train: Rows
    """None where the task has no training split, or no adapter is trained on it."""
    test: Rows
    metric: str
    origin: str
    """The harness' tasks and their versions."""


class HarnessReader:
    """Reads tasks of the harness; the files that name them are read once per folder."""

    def __init__(self, config: GridConfig) -> None:
        self._config = config
        self._indexes: dict[tuple[Path | None, bool], TaskIndex] = {}

    def find(self, asked: HarnessTask) -> dict[str, FoundTask]:
        """Return the harness' tasks by language; reads no documents.

        Raises:
            UserError: If the harness is not installed, has no such task, or the task is no choice among answers.
        """
        found = {}
        for language in asked.languages:
            found[language] = task = self._find(asked.include_path, asked.names(language))
            _refuse_kind(task.name, task.settings.get("output_type", "multiple_choice"))
        return found

    def _find(self, folder: Path | None, names: Sequence[str]) -> FoundTask:
        """Return the first name that is a task in a folder's files, or anything in all files."""
        if folder is not None:
            own = self._index(folder, stock=False)
            for name in names:
                if own.is_task(name):
                    return FoundTask(own, name)
        index = self._index(folder, stock=True)
        for name in names:
            if name in index.manager.all_tasks:
                return FoundTask(index, name)
        raise index.unknown(names[0])

    def _index(self, folder: Path | None, *, stock: bool) -> TaskIndex:
        key = (folder, stock)
        if key not in self._indexes:
            self._indexes[key] = TaskIndex.read(folder, stock=stock)
        return self._indexes[key]

    def read(self, found: FoundTask, code: str, *, train: bool) -> CellRows:
        """Return the documents of a task, or of all tasks of a group together.

        Args:
            found: The task.
            code: The harness' code of its language, which names of a group's tasks hold.
            train: Whether documents of the training split are read.

        Raises:
            UserError: If it cannot be loaded, cannot be a cell, or the harness fails on it.
            RowError: If a document has no usable gold.
        """
        data = self._config.data
        limit = data.max_train_items if data.align == "strict" else None
        parts = []
        with _quiet():
            tasks = found.index.load(found.name).tasks
            for each, task in tasks.items():
                with _failing_in_words(each):
                    _refuse(each, task)
                    learnt = _train_rows(task, limit) if train else []
                    parts.append((each.replace(code, ""), learnt, _test_rows(task, self._config.prompts)))
        metrics = {_metric(each, task) for each, task in tasks.items()}
        versions = ", ".join(f"{each} {task.VERSION}" for each, task in tasks.items())
        return CellRows(
            train=_joined([(label, learnt) for label, learnt, _ in parts]),
            test=_joined([(label, test) for label, _, test in parts]),
            metric=metrics.pop() if len(metrics) == 1 else "acc",
            origin=f"lm-eval {installed_version('lm-eval')}: {versions}",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the harness' remarks and progress bars; errors are raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _failing_in_words(name: str) -> Iterator[None]:
    try:
        yield
    except OF_THE_HARNESS as error:
        raise UserError(
            f"lm-evaluation-harness fails on task {name!r} with {type(error).__name__}: {one_line(error)}; correct its "
            "YAML file, or leave the task out"
        ) from error


def _refuse_kind(name: str, output_type: str) -> None:
    if output_type == "generate_until":
        raise UserError(
            f"task {name!r} of lm-evaluation-harness generates text, which no cell can hold; 'grid lm-eval' runs it"
        )
    if output_type != "multiple_choice":
        raise UserError(
            f"task {name!r} of lm-evaluation-harness has output_type {output_type!r}, and a cell takes "
            "'multiple_choice'; 'grid lm-eval' runs it"
        )


def _refuse(name: str, task: Any) -> None:
    """Refuse tasks whose documents are no choice of one answer after one context."""
    _refuse_kind(name, task.OUTPUT_TYPE)
    for is_so, what in (
        (task.multiple_input, "asks every document with several contexts"),
        (task.multiple_target, "has several right answers to a document"),
        (callable(task.config.process_results), "counts its answers in a way of its own (process_results)"),
    ):
        if is_so:
            raise UserError(
                f"task {name!r} of lm-evaluation-harness {what}, which no cell takes; 'grid lm-eval' runs it"
            )


def _metric(name: str, task: Any) -> str:
    given = list(task.aggregation())
    for metric in _METRICS:
        if metric in given:
            return metric
    raise UserError(
        f"task {name!r} of lm-evaluation-harness is measured by {given}, and a cell takes one of {list(_METRICS)}; "
        "'grid lm-eval' runs it"
    )


def _train_rows(task: Any, limit: int | None) -> Rows:
    """Return the documents of the training split; of more than ``limit`` those that a hash of their ids picks."""
    named = _with_ids(list(task.training_docs())) if task.has_training_docs() else []
    kept = set(sorted((item_id for item_id, _ in named), key=hash_text)[:limit])
    return [_row(task, document, item_id) for item_id, document in named if item_id in kept]


def _test_rows(task: Any, prompts: PromptConfig) -> Rows:
    """Return the documents that are scored, each as the harness asks it.

    Source:
        ``simple_evaluate`` in lm_eval/evaluator.py of lm-evaluation-harness 0.4.13 for seeds and shots.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    own_shots = task.config.num_fewshot
    if own_shots != 0:
        task.set_config("num_fewshot", prompts.shots or own_shots or 0)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED if prompts.shots_seed is None else prompts.shots_seed)
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    chat = prompts.eval_chat_template
    task.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=chat and prompts.shots_as_turns,
        chat_template=_keep_messages if chat else None,
    )
    requests = [list(group) for _, group in groupby(task.instances, key=lambda request: request.doc_id)]
    documents = _with_ids([group[0].doc for group in requests])
    rows = []
    for (item_id, document), group in zip(documents, requests, strict=True):
        row = _row(task, document, item_id)
        rows.append({**row, "asked": _asked(group[0].arguments, row["choices"][0], chat=chat)})
    return rows


def _keep_messages(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    """Stand in for a chat template: it is rendered later, by the tokenizer of every model."""
    return json.dumps([[message["role"], message["content"]] for message in messages])


def _asked(request: tuple[str, str], choice: str, *, chat: bool) -> dict[str, Any]:
    """Return prompt and delimiter of the first request of a document."""
    context, continuation = request
    delimiter = continuation.removesuffix(choice)
    if not chat:
        return {"context": context, "delimiter": delimiter}
    messages = json.loads(context)
    return {"context": "\n\n".join(text for _, text in messages), "delimiter": delimiter, "messages": messages}


def _row(task: Any, document: Any, item_id: str) -> dict[str, Any]:
    """Return a document's id, context without shots, choices, gold and delimiter."""
    choices = list(map(str, task.doc_to_choice(document)))
    target = task.doc_to_target(document)
    gold = choices.index(target) if isinstance(target, str) and target in choices else target
    if isinstance(gold, bool) or not isinstance(gold, int):
        raise RowError(
            f"document {item_id!r} of task {task.config.task!r} has the target {target!r}; expected an index from 0 or "
            f"one of its choices {choices}"
        )
    context = task.fewshot_context(document, 0, gen_prefix=task.doc_to_prefix(document))
    return {
        "id": item_id,
        "context": context,
        "choices": choices,
        "gold": gold,
        "delimiter": task.config.target_delimiter,
    }


def _with_ids(documents: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name every document of a split: by a column where one tells all apart, else by a hash of its content."""
    for columns in _IDS:
        values = [[document.get(name) for name in columns] for document in documents]
        ids = [":".join(map(str, each)) for each in values]
        if len(set(ids)) == len(ids) and not any(value in (None, "") for each in values for value in each):
            return list(zip(ids, documents, strict=True))
    hashes = [hash_text(json.dumps(document, sort_keys=True, default=str))[:16] for document in documents]
    seen: Counter[str] = Counter()
    named = []
    for each, document in zip(hashes, documents, strict=True):
        seen[each] += 1
        named.append((each if seen[each] == 1 else f"{each}-{seen[each]}", document))
    return named


def _joined(parts: Sequence[tuple[str, Rows]]) -> Rows:
    """Return the rows of all tasks of a group; the task's name before the ids only where two tasks share one."""
    ids = Counter(row["id"] for _, rows in parts for row in rows)
    shared = any(count > 1 for count in ids.values())
    return [{**row, "id": f"{label}/{row['id']}"} if shared else row for label, rows in parts for row in rows]
