"""Rows become questions: ids, gold, choices, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transfergrid.benchmarks.spec import TaskSpec
from transfergrid.benchmarks.tasks import RowError, Task, get_task, make_task
from transfergrid.grid import TASKS, UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _arc(**changes: Any) -> dict[str, Any]:
    row = {"id": "q1", "instruction": "Why?", "option_a": "a1", "option_b": "b1", "option_c": "c1", "option_d": "d1"}
    return {**row, "answer": "C", **changes}


def _mmlu(answer: Any) -> dict[str, Any]:
    return {"sample_id": 7, "question": "Why?", **{f"option_{x}": x + "1" for x in "abcd"}, "answer": answer}


def _hellaswag(label: Any, endings: Any = ("x", "y", "z")) -> dict[str, Any]:
    endings = list(endings) if isinstance(endings, tuple) else endings
    return {"id": "h", "activity_label": "L", "ctx_a": "A.", "ctx_b": "b", "endings": endings, "label": label}


@pytest.mark.parametrize(("answer", "gold"), [("A", 0), ("d", 3), (2, 2), ("1", 1), (" B ", 1)])
def test_mmlu_answers_may_be_letters_or_indices(answer: Any, gold: int) -> None:
    assert get_task("global_mmlu").question(_mmlu(answer)).gold == gold


def test_a_hellaswag_label_may_be_a_string() -> None:
    assert get_task("hellaswag").question(_hellaswag("2")).gold == 2
    assert get_task("hellaswag").question(_hellaswag(2)).gold == 2


def test_a_missing_context_b_leaves_no_trailing_blank() -> None:
    task = get_task("hellaswag")
    row = {**_hellaswag("0"), "ctx_b": None}
    assert task.formats["eval"].build(task.question(row)).context == "L: A."


def test_a_missing_option_e_is_no_choice() -> None:
    for changes in ({}, {"option_e": None}, {"option_e": ""}):
        assert get_task("arc_challenge").question(_arc(**changes)).choices == ("a1", "b1", "c1", "d1")


def test_five_options_are_kept() -> None:
    assert len(get_task("arc_challenge").question(_arc(option_e="e1", answer="E")).choices) == 5


def test_an_empty_option_before_the_gold_one_does_not_shift_the_gold() -> None:
    question = get_task("arc_challenge").question(_arc(option_a=""))
    assert question.choices[question.gold] == "c1"
    assert question.empty_choices == (0,)


def test_truthfulqa_takes_the_gold_from_the_labels() -> None:
    row = {"truth_id": "t", "question": "Q", "mc1_targets_choices": ["n", "y", "m"], "mc1_targets_labels": [0, 1, 0]}
    assert get_task("truthfulqa").question(row).gold == 1


@pytest.mark.parametrize("count", [2, 13])
def test_two_to_thirteen_choices_are_read(count: int) -> None:
    labels = [0] * (count - 1) + [1]
    choices = [f"c{index}" for index in range(count)]
    row = {"truth_id": "t", "question": "Q", "mc1_targets_choices": choices, "mc1_targets_labels": labels}
    assert get_task("truthfulqa").question(row).gold == count - 1


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("arc_challenge", _arc(answer="F"), r"item 'q1' of arc_challenge: gold 'F' is out of range; it has 5 choices"),
        ("arc_challenge", _arc(answer="E"), r"item 'q1' of arc_challenge: the right choice is empty"),
        ("arc_challenge", _arc(answer="?"), r"item 'q1': gold '\?' in column 'answer' is not understood"),
        ("arc_challenge", _arc(answer=None), r"gold None in column 'answer' is not understood"),
        ("arc_challenge", _arc(id=" "), r"a row has no id: column 'id' is missing or empty"),
        ("global_mmlu", _mmlu(True), r"gold True in column 'answer' is not understood"),
        ("global_mmlu", _mmlu(4), r"item '7' of global_mmlu: gold 4 is out of range; it has 4 choices"),
        ("global_mmlu", _mmlu(-1), r"gold -1 is out of range"),
        ("hellaswag", _hellaswag("0", ("only",)), r"item 'h' of hellaswag has 1 choices; expected 2 to 26"),
        ("hellaswag", _hellaswag("0", "text"), r"item 'h' of hellaswag: its choices cannot be read: column 'endings'"),
        ("hellaswag", _hellaswag([1, 1]), r"gold \[1, 1\] in column 'label' is not understood"),
        ("arc_challenge", {"id": "q", "answer": "A"}, r"item 'q' of arc_challenge: its choices cannot be read"),
    ],
)
def test_an_unusable_row_is_refused_with_its_id(task: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        get_task(task).question(row)


def test_a_context_that_needs_a_missing_column_is_refused() -> None:
    task = get_task("arc_challenge")
    row = _arc()
    del row["instruction"]
    with pytest.raises(RowError, match="item 'q1' of arc_challenge: 'instruction' is undefined"):
        task.formats["eval"].build(task.question(row))


def _numbers(context: str, choices: dict[str, Any] | None = None) -> Task:
    spec = {"name": "numbers", "id": "id", "gold": "gold", "choices": choices or {"column": "options"}}
    formats = {name: {"context": context} for name in ("train", "eval")}
    return make_task(TaskSpec.model_validate({**spec, "formats": formats}))


NUMBERS = {"id": "n", "question": 5, "gold": 0, "options": [1, 2]}


def test_numbers_may_be_questions_and_choices() -> None:
    task = _numbers("{{ question | clean }}?", {"column": "options", "template": "{{ choice | clean }}"})
    item = task.formats["eval"].build(task.question(NUMBERS))
    assert (item.context, item.choices) == ("5?", ("1", "2"))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("{{ 1 / 0 }}", r"ZeroDivisionError: division by zero; check the columns in formats.train.context"),
        ("{{ question + 'x' }}", r"TypeError: unsupported operand.*; check the columns in formats.train.context"),
    ],
)
def test_whatever_a_context_fails_at_is_told_with_its_item(context: str, message: str) -> None:
    task = _numbers(context)
    with pytest.raises(RowError, match=rf"item 'n' of numbers: {message}"):
        task.formats["train"].build(task.question(NUMBERS))


def test_whatever_a_choice_fails_at_is_told_with_its_item() -> None:
    task = _numbers("{{ question }}", {"templates": ["{{ 1 / gold }}", "b"]})
    with pytest.raises(RowError, match=r"item 'n' of numbers: its choices cannot be read: ZeroDivisionError: division"):
        task.question(NUMBERS)


def test_an_unknown_task_is_named_with_what_is_known() -> None:
    with pytest.raises(UserError, match=r"unknown task 'arc'; expected one of \['arc_challenge', "):
        get_task("arc")


@pytest.mark.parametrize("name", TASKS)
def test_a_builtin_task_can_be_written_as_a_custom_yaml(name: str, tmp_path: Path) -> None:
    from transfergrid.benchmarks.rows import RowSource
    from transfergrid.config.settings import DataConfig

    path = tmp_path / "mine.yaml"
    text = (BENCHMARKS / f"{name}.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace(f"name: {name}", "name: mine"), encoding="utf-8")
    builtin, custom = get_task(name), get_task("mine", {"mine": path})
    rows = RowSource(DataConfig()).read(builtin.spec, "hi", "test")
    assert rows
    for row in rows:
        for format_name in builtin.formats:
            expected = builtin.formats[format_name].build(builtin.question(row))
            assert custom.formats[format_name].build(custom.question(row)) == expected


def test_a_custom_task_listed_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text((BENCHMARKS / "hellaswag.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match=r"describes 'hellaswag', but is listed as 'mine'"):
        get_task("mine", {"mine": path})


def test_a_template_with_broken_jinja_is_refused() -> None:
    spec = get_task("hellaswag").spec
    broken = spec.formats["eval"].model_copy(update={"context": "{{ x"})
    with pytest.raises(UserError, match=r"template of hellaswag.formats.eval is not valid Jinja"):
        make_task(TaskSpec.model_copy(spec, update={"formats": {**spec.formats, "eval": broken}}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"item 't1' of truthfulqa: 2 labels in column 'mc1_targets_labels' for 3 choices; expected one label"),
        ([0, 1, 0, 0], r"4 labels in column 'mc1_targets_labels' for 3 choices"),
        ([2, 1, 0], r"gold \[2, 1, 0\] in column 'mc1_targets_labels' is not understood"),
        (True, r"gold True in column 'mc1_targets_labels' is not understood"),
        ("1" * 5000, r"gold '1+' in column 'mc1_targets_labels' is not understood"),
    ],
)
def test_labels_that_do_not_fit_the_choices_are_refused(labels: object, message: str) -> None:
    row = {"truth_id": "t1", "question": "?", "mc1_targets_choices": ["a", "b", "c"], "mc1_targets_labels": labels}
    with pytest.raises(RowError, match=message):
        get_task("truthfulqa").question(row)
