"""Safetensors from outside: of an adapter with a sound configuration, and of a base."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from tests.fuzz.adapters import BASE, CONFIG, WEIGHTS
from tests.fuzz.strategies import damaged, damaged_json
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.grid import UserError

_START = 8 + int.from_bytes(WEIGHTS[:8], "little")
_HEADER, _VALUES = json.loads(WEIGHTS[8:_START]), WEIGHTS[_START:]

CONTENTS = damaged([WEIGHTS]) | damaged_json(_HEADER).map(
    lambda header: len(header).to_bytes(8, "little") + header + _VALUES
)


def read(content: bytes, folder: Path) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / WEIGHTS_FILE).write_bytes(content)
    with suppress(UserError):
        read_linear_shapes(folder)
    check_adapter(folder, BASE, name="mine")
