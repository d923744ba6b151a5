"""What is missing is missing, and what is no text is said: rows as pandas, Polars, JSON and Arrow write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from transfergrid.benchmarks.materialise import materialise
from transfergrid.config.settings import DataConfig, GridConfig
from transfergrid.grid import UserError
from transfergrid.store.data_manifest import DataManifest

_OPTIONS = ("option_a", "option_b", "option_c", "option_d", "option_e")


def arc_row(item_id: str, *, answer: Any = "A", **changes: Any) -> dict[str, Any]:
    texts = {name: f"{name} of {item_id}" for name in _OPTIONS[:4]}
    return {"id": item_id, "instruction": f"What is {item_id}?", **texts, "option_e": None, "answer": answer, **changes}


def bring_in(tmp_path: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], form: str = "jsonl") -> DataManifest:
    folder = tmp_path / "rows" / "arc_challenge" / "en"
    folder.mkdir(parents=True)
    for split, each in rows.items():
        if form == "parquet":
            pl.DataFrame(each, infer_schema_length=None).write_parquet(folder / f"{split}.parquet")
        else:
            lines = "".join(json.dumps(row) + "\n" for row in each)  # NaN is written as NaN, as pandas reads it
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    config = GridConfig(
        tasks=("arc_challenge",), languages=("en",), data=DataConfig(source="local", path=tmp_path / "rows")
    )
    return materialise(config, tmp_path / "data")


def stored(tmp_path: Path, split: str = "test") -> list[dict[str, Any]]:
    path = tmp_path / "data" / "arc_challenge" / "en" / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_what_is_missing_is_no_option(form: str, value: float | None, tmp_path: Path) -> None:
    rows = {split: [arc_row(f"{split}{at}", option_e=value) for at in range(3)] for split in ("train", "test")}
    bring_in(tmp_path, rows, form)
    assert [row["option_e"] for row in stored(tmp_path)] == [None] * 3
    from transfergrid.benchmarks.cells import load_items
    from transfergrid.benchmarks.tasks import get_task

    items = load_items(tmp_path / "data", get_task("arc_challenge"), "en", "test", "eval")
    assert [len(item.choices) for item in items] == [4] * 3


def test_a_missing_question_is_a_fault_and_no_prompt_of_nan(tmp_path: Path) -> None:
    rows = {"train": [arc_row("a")], "test": [arc_row("b", instruction=float("nan"))]}
    with pytest.raises(UserError, match=r"item 'b': column 'instruction' is empty; expected text"):
        bring_in(tmp_path, rows)


def test_numbers_and_words_for_missing_values_are_said(tmp_path: Path) -> None:
    numbers = [arc_row("a", option_a=3.0), arc_row("b", option_a=12.5)]
    remarks = bring_in(tmp_path, {"train": numbers, "test": [arc_row("c", option_b="nan")]}).remarks
    assert remarks == [
        "arc_challenge: column 'option_a' holds float where text is read (2 values), for example 3.0 in item 'a' of en "
        "train, which reads as '3.0'",
        "arc_challenge: column 'option_b' holds words for a missing value (1 value), for example 'nan' in item 'c' of "
        "en test, which is read as this text",
    ]


def test_bytes_are_no_text(tmp_path: Path) -> None:
    rows = {"train": [arc_row("a")], "test": [arc_row("b", option_a=b"x")]}
    with pytest.raises(UserError, match=r"item 'b': column 'option_a' holds bytes; expected text"):
        bring_in(tmp_path, rows, "parquet")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x", "id": "y"}', r"line 1 of .* cannot be read as JSON: key 'id' is there twice"),
        ('{"id": "\\ud800"}', r"line 1 of .* cannot be read as JSON: .*surrogate"),
        ("[" * 200_000, r"line 1 of .* is nested deeper than 100 brackets"),
        ('{"id": ' + "1" * 5000 + "}", r"line 1 of .* a number of thousands of digits"),
    ],
)
def test_a_row_that_is_no_plain_json_is_one_sentence(line: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "rows" / "arc_challenge" / "en"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(line + "\n", encoding="utf-8")
    config = GridConfig(
        tasks=("arc_challenge",), languages=("en",), data=DataConfig(source="local", path=tmp_path / "rows")
    )
    with pytest.raises(UserError, match=message):
        materialise(config, tmp_path / "data")


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_parquet_file_is_one_sentence(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "rows" / "arc_challenge" / "en"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pl.DataFrame([arc_row("a")]).write_parquet(folder / f"{split}.parquet")
    path = folder / "train.parquet"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[-30:-10] = bytes(255 - byte for byte in content[-30:-10])
    path.write_bytes(content)
    config = GridConfig(
        tasks=("arc_challenge",), languages=("en",), data=DataConfig(source="local", path=tmp_path / "rows")
    )
    with pytest.raises(UserError, match=r"train.parquet cannot be read as Parquet: "):
        materialise(config, tmp_path / "data")


def golds(tmp_path: Path) -> list[int]:
    from transfergrid.benchmarks.tasks import get_task

    return [get_task("arc_challenge").question(row).gold for row in stored(tmp_path)]


def test_digits_among_letters_count_from_one_where_no_zero_occurs(tmp_path: Path) -> None:
    test = [arc_row("b", answer="B"), arc_row("c", answer="1"), arc_row("d", answer="3")]
    remarks = bring_in(tmp_path, {"train": [arc_row("a")], "test": test}).remarks
    assert golds(tmp_path) == [1, 0, 2]
    assert remarks == [
        "arc_challenge: 2 golds in column 'answer' are numbers from 1 to 3 and 0 never occurs: they are read as "
        "counting from 1"
    ]


@pytest.mark.parametrize("as_text", [False, True])
def test_a_number_as_large_as_the_choices_proves_that_numbers_count_from_one(as_text: bool, tmp_path: Path) -> None:
    test = [arc_row(f"t{number}", answer=str(number) if as_text else number) for number in (1, 2, 3, 4)]
    bring_in(tmp_path, {"train": [arc_row("a", answer="2" if as_text else 2)], "test": test})
    assert golds(tmp_path) == [0, 1, 2, 3]


def test_one_zero_proves_that_numbers_count_from_zero(tmp_path: Path) -> None:
    test = [arc_row(f"t{number}", answer=number) for number in (1, 2, 3)]
    assert bring_in(tmp_path, {"train": [arc_row("a", answer=0)], "test": test}).remarks == []
    assert golds(tmp_path) == [1, 2, 3]


def test_numbers_that_may_count_from_zero_or_one_are_refused(tmp_path: Path) -> None:
    test = [arc_row(f"t{number}", answer=number) for number in (1, 2, 3)]
    with pytest.raises(
        UserError,
        match=r"4 golds in column 'answer' are numbers from 1 to 3 and 0 never occurs, so that they may count from 0 or "
        r"from 1; write letters \(A, B, \.\.\.\) instead",
    ):
        bring_in(tmp_path, {"train": [arc_row("a", answer=1)], "test": test})


def test_a_few_copies_of_train_items_are_a_remark_and_many_are_a_fault(tmp_path: Path) -> None:
    train = [arc_row(f"a{at}") for at in range(3)]
    copy = {**train[1], "id": "copy", "instruction": "what  is A1? ", "option_a": train[1]["option_b"]}
    copy["option_b"] = train[1]["option_a"]
    test = [arc_row(f"t{at}") for at in range(19)] + [copy]
    said = "arc_challenge en: 1 of 20 test items stand in train too under other ids, with the same text and choices: 'copy'"
    remarks = bring_in(tmp_path / "few", {"train": train, "test": test}).remarks
    assert remarks == [f"{said}; scores of adapters trained on arc_challenge are too good by up to these items"]
    with pytest.raises(UserError, match=r"1 of 19 test items stand in train too .*: 'copy'; expected at most 5%, take"):
        bring_in(tmp_path / "many", {"train": train, "test": test[1:]})
