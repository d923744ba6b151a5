"""JSON from outside: a value or one sentence, whatever the bytes are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfergrid.store.json_text import JsonError, parse_json, read_json, read_json_lines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)  # fmt: skip


@given(VALUES)
def test_what_python_writes_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value), "x") == value


@given(st.binary() | st.text(alphabet='[]{}",:0123456789eE+-.\\uNaIfity dD', max_size=200).map(str.encode))
def test_any_bytes_give_a_value_or_one_sentence(content: bytes) -> None:
    try:
        parse_json(content, "'x.json'")
    except JsonError as error:
        assert str(error).startswith("'x.json' cannot be read as JSON: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", r"line 1, column 2"),
        (b"\xff", r"it is not UTF-8 at byte 0"),
        (b'{"a": 1, "a": 2}', r"key 'a' is there twice"),
        (b"[NaN]", r"NaN is no number of JSON"),
        (b"-Infinity", r"-Infinity is no number of JSON"),
        (b"[1e999]", r"a number that is too large"),
        (b"1" * 400, r"a number that is too large"),
        (b"1" * 5000, r"a number of thousands of digits"),
        (b"[" * 200_000 + b"]" * 200_000, r"nested deeper than 100 brackets"),
        (b"[" * 200 + b"]" * 200, r"nested deeper than 100 brackets"),
        (b'{"a": "\\ud800"}', r"text '\\ud800' holds half a character"),
        (b'{"\\ud800": 1}', r"text '\\ud800' holds half a character"),
    ],
)
def test_what_is_refused_is_said(content: bytes, reason: str) -> None:
    with pytest.raises(JsonError, match=reason):
        parse_json(content, "'x.json'")


def test_too_long_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    with pytest.raises(JsonError, match=r"x.json' cannot be read as JSON: it is longer than 5 bytes; mend it"):
        read_json(tmp_path / "x.json", max_bytes=5)
    with pytest.raises(JsonError, match="No such file"):
        read_json(tmp_path / "y.json")
    with pytest.raises(JsonError, match="Is a directory"):
        list(read_json_lines(tmp_path))
    assert read_json(tmp_path / "x.json") == [1, 2, 3]


def test_not_a_number_passes_where_the_reader_says_more(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": NaN}\n\n{"a": "\\ud83d\\ude00"}\n{"a"')
    lines = read_json_lines(tmp_path / "x.jsonl", allow_nan=True)
    number, value = next(lines)
    assert (number, math.isnan(value["a"])) == (1, True)
    assert next(lines) == (3, {"a": "\U0001f600"})
    with pytest.raises(JsonError, match=r"line 4 of .*x.jsonl' cannot be read as JSON"):
        next(lines)
