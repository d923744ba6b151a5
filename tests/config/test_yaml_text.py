"""YAML texts from anywhere: a plain value, or one sentence."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfergrid.config.file import parse_config
from transfergrid.config.yaml_text import MAX_CHARACTERS, parse_yaml
from transfergrid.grid import UserError

_NAMES = "abcdefghij"
_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise(_NAMES)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_BOMB, r"file: its aliases stand for more than 100,000 values; write out fewer$"),
        ("vllm_args: &a {hf_overrides: *a}", r"file: the value in line 1 contains itself$"),
        ("a: &a [*a]", r"the value in line 1 contains itself$"),
        ("seeds: [1" + "1" * 5000 + "]", r"the number in line 1 has 5001 digits; expected at most 18$"),
        ("a: 0x" + "f" * 5000, r"the number in line 1 has 5002 digits"),
        ("[" * 200_000, r"nested deeper than 50 mappings and lists$"),
        ("{a: " * 60_000, r"nested deeper than 50 mappings and lists$"),
        ('a: "\\ud800"', r"line 1 holds half a character \(a lone surrogate\)$"),
        ("#" * (MAX_CHARACTERS + 1), r"file has 262,145 characters; expected at most 262,144$"),
        ("a: 2024-13-45", r"file is not YAML: month must be in 1..12$"),
        ("a: !!int ''", r"file is not YAML: string index out of range$"),
        ("a: !!bool x", r"file is not YAML: 'x'$"),
        ("a: 1\nb: 2\na: 3", r"key 'a' stands in line 1 and again in line 3; only the last would count, keep one$"),
    ],
)
def test_a_text_that_stands_for_more_than_it_shows_is_one_sentence(text: str, message: str) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match=message):
        parse_yaml(text, "file")
    assert time.perf_counter() - started < 2


def test_an_alias_and_a_merge_are_taken() -> None:
    text = "a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n"
    assert parse_yaml(text, "file") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#, \n\t0x9.~<?\\u"), max_size=60))
def test_any_text_gives_a_value_or_one_sentence(text: str) -> None:
    try:
        parse_config(parse_yaml(text, "file"), origin="file")
    except UserError as error:
        assert str(error)


def test_a_value_that_contains_itself_is_refused_from_python_too() -> None:
    raw: dict[str, object] = {}
    raw["hf_overrides"] = raw
    with pytest.raises(UserError, match=r"engine.vllm_args.*cyclic reference"):
        parse_config({"engine": {"vllm_args": raw}}, origin="file")
