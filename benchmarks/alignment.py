"""Checks across languages and splits: same ids, same gold, train and test apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from transfergrid.benchmarks.rows import Split
from transfergrid.benchmarks.tasks import Question, Task
from transfergrid.wording import listed

SHOWN_IDS = 5
"""How many ids a message names before it counts the rest."""

MAX_COPIED = 0.05
"""Share of a language's test items that may stand in train too under other ids."""

Questions = Mapping[str, Mapping[str, Question]]
"""Questions of one task: language -> item id -> question."""


Splits = dict[Split, dict[str, dict[str, Question]]]
"""Split -> language -> item id -> question."""


def name_ids(ids: Iterable[str]) -> str:
    """Return the first ids, sorted, and how many more there are."""
    return listed([repr(item_id) for item_id in sorted(ids)], SHOWN_IDS)


@dataclass
class TaskCheck:
    """What the checks of one task found."""

    faults: list[str] = field(default_factory=list)
    """Reasons to refuse the data, each naming task, language and ids."""
    remarks: list[str] = field(default_factory=list)
    """Things a reader should know that do not make scores wrong."""


class ReadTask(NamedTuple):
    """The questions of a task, as they were read."""

    splits: Splits
    found: TaskCheck
    """Faults and remarks of single rows."""
    together: Sequence[Sequence[str]]
    """Languages that share their items, group by group."""
    metric: str = ""
    """Of a task of lm-evaluation-harness, which names it."""
    origin: str = ""
    """Of such a task: its version and the harness'."""


def check_overlap(task: str, train: Questions, test: Questions) -> list[str]:
    """Name ids that are in train in one language and in test in any language."""
    tested = {item_id: language for language, by_id in test.items() for item_id in by_id}
    return [
        f"{task}: train ({language}) and test ({tested[min(common)]}) share the ids {name_ids(common)}"
        for language, by_id in train.items()
        if (common := by_id.keys() & tested.keys())
    ]


def check_copies(task: Task, train: Questions, test: Questions) -> TaskCheck:
    """Find test items that stand in train too, in the same language, under another id.

    A few are a remark: published sets hold some, and users cannot mend them; more than ``MAX_COPIED`` are a fault,
    because then the split itself is wrong and the adapters would be asked what they learnt.

    Args:
        task: The task; the prompt it evaluates with, without shots, is compared (without case and blanks), and the set
            of choices.
        train: Its train questions.
        test: Its test questions.
    """

    def content(question: Question) -> tuple[object, ...]:
        prompt = task.formats["train" if task.is_harness else "eval"].build(question).context
        return _plain(prompt), tuple(sorted(map(_plain, question.choices)))

    found = TaskCheck()
    for language in test:
        known = {content(question): item_id for item_id, question in train.get(language, {}).items()}
        copies = [
            item_id for item_id, question in test[language].items() if known.get(content(question), item_id) != item_id
        ]
        if copies:
            said = (
                f"{task.name} {language}: {len(copies)} of {len(test[language])} test items stand in train too under "
                f"other ids, with the same text and choices: {name_ids(copies)}"
            )
            if len(copies) > MAX_COPIED * len(test[language]):
                found.faults.append(f"{said}; expected at most {MAX_COPIED:.0%}, take them out of one of the two")
            else:
                found.remarks.append(
                    f"{said}; scores of adapters trained on {task.name} are too good by up to these items"
                )
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def common_ids(questions: Questions) -> set[str]:
    """Return the ids that every language has."""
    return set.intersection(*(set(by_id) for by_id in questions.values()))


def check_missing(task: str, split: str, questions: Questions) -> list[str]:
    """Name ids that some language has and another has not."""
    every = set().union(*questions.values())
    return [
        f"{task} {split}: {language} lacks the ids {name_ids(missing)}; "
        "use data.align: intersect to keep only ids that all languages have"
        for language, by_id in questions.items()
        if (missing := every - by_id.keys())
    ]


def check_gold(task: str, split: str, questions: Questions) -> list[str]:
    """Name ids whose right choice differs from that of the first language."""
    reference_language, *others = questions
    reference = questions[reference_language]
    faults = []
    for language in others:
        by_id = questions[language]
        differing = [item_id for item_id in by_id.keys() & reference.keys() if _gold_differs(by_id, reference, item_id)]
        if differing:
            faults.append(
                f"{task} {split}: gold differs between {reference_language} and {language} for the ids "
                f"{name_ids(differing)}"
            )
    return faults


def _gold_differs(left: Mapping[str, Question], right: Mapping[str, Question], item_id: str) -> bool:
    return left[item_id].gold != right[item_id].gold


def remark_choices(task: str, split: str, questions: Questions) -> list[str]:
    """Report duplicate choices, and choices that differ in number between languages."""
    remarks = []
    reference = next(iter(questions.values()))
    for language, by_id in questions.items():
        if twice := [i for i, q in by_id.items() if len(set(q.choices)) < len(q.choices)]:
            remarks.append(f"{task} {split} {language}: duplicate choices in the ids {name_ids(twice)}")
        if other := [i for i, q in by_id.items() if i in reference and len(reference[i].choices) != len(q.choices)]:
            remarks.append(f"{task} {split} {language}: another number of choices in the ids {name_ids(other)}")
    return remarks


def check_task(task: str, splits: Mapping[Split, Questions], *, strict: bool) -> TaskCheck:
    """Check one task's questions over languages and splits.

    Args:
        task: The task's name.
        splits: ``train`` and ``test``: language -> item id -> question.
        strict: Ids missing in a language are faults; otherwise the caller keeps the common ones.
    """
    check = TaskCheck(faults=check_overlap(task, splits["train"], splits["test"]))
    for split, questions in splits.items():
        if strict:
            check.faults += check_missing(task, split, questions)
        elif any(questions.values()) and not common_ids(questions):
            check.faults.append(f"{task} {split}: no id is in all of the languages {sorted(questions)}")
        check.faults += check_gold(task, split, questions)
        check.remarks += remark_choices(task, split, questions)
    return check


def languages_together(splits: Mapping[Split, Questions], *, strict: bool) -> list[list[str]]:
    """Return the languages that share their items, as many as do, then each other language alone.

    Languages share items where their ids are the same (not ``strict``: some test ids are) and no gold differs, so that
    documents which are numbered anew in every language do not pass for the same ones.
    """
    test = splits["test"]

    def agree(one: str, other: str) -> bool:
        same = all(each[one].keys() == each[other].keys() for each in splits.values())
        common = test[one].keys() & test[other].keys()
        golds_agree = not any(_gold_differs(test[one], test[other], item_id) for item_id in common)
        return golds_agree and (same if strict else bool(common))

    shared = max(([other for other in test if agree(one, other)] for one in test), key=len)
    return [shared, *([language] for language in test if language not in shared)]
