"""Documents of lm-evaluation-harness as rows: its prompts, its examples and its golds, under an id."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jinja2
import numpy as np

from transfergrid.benchmarks.harness.counting import Counting, counting_of
from transfergrid.benchmarks.harness.index import FoundTask
from transfergrid.benchmarks.spec import HARNESS_METRICS
from transfergrid.benchmarks.tasks import RowError
from transfergrid.config.prompts import PromptConfig
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.files import hash_text
from transfergrid.store.provenance import installed_version
from transfergrid.wording import one_line

_OF_THE_HARNESS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, jinja2.TemplateError)
"""What the harness raises where a task, its data and the options do not fit together."""
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


class CellRows(NamedTuple):
    """The documents of one cell."""

    train: Rows
    """None where the task has no training split, or no adapter is trained on it."""
    test: Rows
    metric: str
    origin: str
    """The harness' tasks and their versions."""


class HarnessReader:
    """Reads documents of tasks of the harness as a configuration asks for them."""

    def __init__(self, config: GridConfig) -> None:
        self._config = config

    def read(self, found: FoundTask, code: str, *, train: bool, metric: str | None = None) -> CellRows:
        """Return the documents of a task, or of all tasks of a group together.

        Args:
            found: The task.
            code: The harness' code of its language, which names of a group's tasks hold.
            train: Whether documents of the training split are read.
            metric: The harness' metric that is the score; None: see `counting_of`.

        Raises:
            UserError: If it cannot be loaded, cannot be a cell, or the harness fails on it.
            RowError: If a document has no usable gold.
        """
        data = self._config.data
        limit = data.max_train_items if data.align == "strict" else None
        parts = []
        with _quiet(), _failing_in_words(found.name):
            tasks = found.load()
            counting = {each: counting_of(each, task, metric) for each, task in tasks.items()}
            is_counted = any(not counting[each].is_plain or task.multiple_target for each, task in tasks.items())
            for each, task in tasks.items():
                learnt = _train_rows(task, limit) if train else []
                test = _test_rows(task, self._config.prompts, counting[each], is_counted=is_counted)
                parts.append((each.replace(code, ""), learnt, test))
        metrics = {each.metric for each in counting.values()}
        if is_counted:
            is_acc = all(counting[each].is_right_or_wrong and not task.multiple_target for each, task in tasks.items())
            metrics = {HARNESS_METRICS[is_acc]}
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
    except _OF_THE_HARNESS as error:
        raise UserError(
            f"lm-evaluation-harness fails on task {name!r} with {type(error).__name__}: {one_line(error)}; correct its "
            "YAML file, or leave the task out"
        ) from error


def _train_rows(task: Any, limit: int | None) -> Rows:
    """Return the documents of the training split; of more than ``limit`` those that a hash of their ids picks.

    Whole texts are not learnt: there is no answer in them.
    """
    is_learnt = task.has_training_docs() and task.OUTPUT_TYPE != "loglikelihood_rolling"
    named = _with_ids(list(task.training_docs())) if is_learnt else []
    kept = set(sorted((item_id for item_id, _ in named), key=hash_text)[:limit])
    return [_row(task, document, item_id) for item_id, document in named if item_id in kept]


def _test_rows(task: Any, prompts: PromptConfig, counting: Counting, *, is_counted: bool) -> Rows:
    """Return the documents that are scored, each as the harness asks it.

    Args:
        task: A task of the harness.
        prompts: Shots and chat.
        counting: How the harness makes values of answers.
        is_counted: Whether it does, since the cell is not scored by one right choice.

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
        asked: dict[str, Any]
        if counting.asks_twice or "requests" in row:
            asked = {"requests": _requests(group if counting.asks_twice else group[: len(row["choices"])], chat=chat)}
        else:
            asked = _asked(group[0].arguments, row["choices"][0], chat=chat)
        if is_counted:
            asked |= _counted(task, document, row, counting)
        rows.append({**row, "asked": asked})
    return rows


def _counted(task: Any, document: Any, row: Mapping[str, Any], counting: Counting) -> dict[str, str]:
    """Return how the answer to a document is counted, and by which file."""
    how = counting.parts
    code = how.pop("code", "")
    if code:
        how["document"] = document
    elif task.multiple_target or "kind" not in how:
        how["golds"] = _golds(task, document, row["choices"], row["id"])
    return {"counted": json.dumps(how, ensure_ascii=False), "code": code}


def _requests(instances: Sequence[Any], *, chat: bool) -> list[list[Any]]:
    """Return prompt and continuation of every request; a chat as its messages, no prompt of whole texts as None."""
    return [
        [json.loads(prompt[0]) if chat and prompt and prompt[0] else prompt[0] if prompt else None, continuation]
        for *prompt, continuation in (instance.arguments for instance in instances)
    ]


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
    """Return a document's id, context without shots, choices, gold and delimiter, and requests with own contexts.

    A document that is no choice has its one text as the only choice; choices that are prompts stand with their text.
    """
    context = task.fewshot_context(document, 0, gen_prefix=task.doc_to_prefix(document))
    if task.OUTPUT_TYPE != "multiple_choice":
        return _text_row(task, document, item_id, context)
    given = task.doc_to_choice(document)
    if not isinstance(given, list | tuple):
        raise RowError(f"document {item_id!r} of task {task.config.task!r} has the choices {given!r}; expected a list")
    choices = list(map(str, given))
    row = {
        "id": item_id,
        "context": context,
        "choices": choices,
        "gold": _golds(task, document, choices, item_id)[0],
        "delimiter": task.config.target_delimiter,
    }
    if not task.multiple_input:
        return row
    requests = _requests(task.construct_requests(document, context)[: len(choices)], chat=False)
    read = [choice + text for choice, (_, text) in zip(choices, requests, strict=True)]
    return {**row, "context": "", "choices": read, "requests": requests}


def _text_row(task: Any, document: Any, item_id: str, context: str) -> dict[str, Any]:
    """Return a document whose text is scored, after a context or as a whole."""
    (request,) = _requests([task.construct_requests(document, context)], chat=False)
    prompt, text = request
    if not isinstance(text, str):
        raise RowError(f"document {item_id!r} of task {task.config.task!r} has the target {text!r}; expected a text")
    delimiter = text[: len(text) - len(text.lstrip())] if prompt else ""
    text = text.removeprefix(delimiter)
    row = {"id": item_id, "context": prompt or "", "choices": [text], "gold": 0, "delimiter": delimiter}
    return {**row, "requests": [request]}


def _golds(task: Any, document: Any, choices: list[str], item_id: str) -> list[int]:
    """Return the indices of a document's right choices, one except where the task has several."""
    target = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    may_be_several = task.multiple_target or callable(task.config.process_results)
    given = target if may_be_several and isinstance(target, list) else [target]
    golds = [choices.index(each) if isinstance(each, str) and each in choices else each for each in given]
    is_index = [isinstance(gold, int) and not isinstance(gold, bool) for gold in golds]
    if not golds or not all(is_index) or any(not 0 <= gold < len(choices) for gold in golds[1:]):
        raise RowError(
            f"document {item_id!r} of task {task.config.task!r} has the target {target!r}; expected an index from 0 or "
            f"one of its choices {choices}"
        )
    return golds


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
