"""Rows of items as JSON Lines."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.strategies import damaged_json
from transfergrid.benchmarks.rows import read_jsonl

_ROWS = [
    {"id": "q1", "question": "What?", "choices": ["a", "b"], "answer": 0},
    {"id": 2, "instruction": "Why?", "option_a": "x", "option_b": None, "answer": "A"},
]
CONTENTS = st.lists(damaged_json(*_ROWS), min_size=1, max_size=3).map(b"\n".join)


def read(content: bytes, folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(content)
    read_jsonl(folder / "train.jsonl")
