"""Checks across languages and splits."""

from __future__ import annotations

import pytest

from transfergrid.benchmarks.alignment import Questions, check_task, name_ids
from transfergrid.benchmarks.tasks import Question


def _questions(**languages: dict[str, int]) -> Questions:
    return {
        language: {item_id: Question(item_id, ("a", "b", "c"), gold, {}) for item_id, gold in golds.items()}
        for language, golds in languages.items()
    }


TRAIN = _questions(de={"q1": 0}, en={"q1": 0})


def test_aligned_data_has_no_fault() -> None:
    check = check_task("t", {"train": TRAIN, "test": _questions(de={"q2": 1}, en={"q2": 1})}, strict=True)
    assert (check.faults, check.remarks) == ([], [])


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (_questions(de={"q1": 0, "q2": 1}, en={"q1": 0, "q2": 1}), "t: train (de) and test (en) share the ids 'q1'"),
        (_questions(de={"q2": 1}, en={"q1": 0, "q2": 1}), "t: train (de) and test (en) share the ids 'q1'"),
        (
            _questions(de={"q2": 1}, en={"q2": 1, "q3": 0}),
            "t test: de lacks the ids 'q3'; use data.align: intersect to keep only ids that all languages have",
        ),
        (_questions(de={"q2": 1}, en={"q2": 2}), "t test: gold differs between de and en for the ids 'q2'"),
    ],
)
def test_a_fault_names_task_language_and_ids(test: Questions, fault: str) -> None:
    assert fault in check_task("t", {"train": TRAIN, "test": test}, strict=True).faults


def test_intersect_takes_missing_ids_but_not_an_empty_rest() -> None:
    partly = _questions(de={"q2": 1, "q3": 1}, en={"q2": 1})
    assert check_task("t", {"train": TRAIN, "test": partly}, strict=False).faults == []
    apart = _questions(de={"q2": 1}, en={"q3": 1})
    faults = check_task("t", {"train": TRAIN, "test": apart}, strict=False).faults
    assert faults == ["t test: no id is in all of the languages ['de', 'en']"]


def test_duplicate_choices_and_other_counts_are_remarks() -> None:
    english = {"q2": Question("q2", ("a", "b", "c"), 0, {})}
    german = {"q2": Question("q2", ("a", "a"), 0, {})}
    check = check_task("t", {"train": TRAIN, "test": {"en": english, "de": german}}, strict=True)
    assert check.faults == []
    assert check.remarks == [
        "t test de: duplicate choices in the ids 'q2'",
        "t test de: another number of choices in the ids 'q2'",
    ]


def test_many_ids_are_counted_after_the_first_five() -> None:
    assert name_ids(f"q{index}" for index in range(7)) == "'q0', 'q1', 'q2', 'q3', 'q4' and 2 more"
