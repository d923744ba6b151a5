"""Results files of Every Eval Ever beside sound samples, up to the transfer table."""

from __future__ import annotations

import json
from pathlib import Path

from tests.analysis.imports.test_every_eval_ever import FILES, copy_converted
from tests.fuzz.strategies import damaged_json
from transfergrid.analysis.imports.every_eval_ever import import_every_eval_ever
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder

_FILES = sorted((FILES / "converted" / "arc_challenge_de").rglob("*.json"))
CONTENTS = damaged_json(*(json.loads(path.read_text(encoding="utf-8")) for path in _FILES))


def read(content: bytes, folder: Path) -> None:
    converted = copy_converted(folder)
    (converted / _FILES[0].relative_to(FILES / "converted")).write_bytes(content)
    run = RunFolder(folder / "run")
    import_every_eval_ever(converted, run, allow_mismatch=len(content) % 2 == 0)
    read_transfer(run)
