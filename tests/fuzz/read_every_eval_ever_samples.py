"""Samples files of Every Eval Ever beside sound results that hold their checksum, up to the transfer table."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from tests.analysis.imports.test_every_eval_ever import FILES, copy_converted, write_samples
from tests.fuzz.strategies import damaged, damaged_json
from transfergrid.analysis.imports.every_eval_ever import import_every_eval_ever
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder

_TASKS = ("arc_challenge_de", "wiki_sw")
_FILES = [sorted((FILES / "converted" / task).rglob("*.json"))[0] for task in _TASKS]
_VALID = [path.with_name(f"{path.stem}_samples.jsonl").read_bytes() for path in _FILES]
_LINES = [json.loads(line) for valid in _VALID for line in valid.splitlines()[:2]]

CONTENTS = damaged(_VALID) | st.lists(damaged_json(*_LINES), min_size=1, max_size=3).map(b"\n".join)


def read(content: bytes, folder: Path) -> None:
    converted = copy_converted(folder)
    path = _FILES[b"wiki_sw" in content]
    write_samples(converted / path.relative_to(FILES / "converted"), content)
    run = RunFolder(folder / "run")
    import_every_eval_ever(converted, run)
    read_transfer(run)
