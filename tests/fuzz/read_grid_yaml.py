"""The configuration file."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.strategies import STRANGE_JSON, damaged
from transfergrid.config.file import load_config
from transfergrid.config.text import PRESETS, render_config

_TEXT = render_config(PRESETS["quickstart"], "x").encode()
_VALUES = [
    line.rpartition(b": ")[2] for line in _TEXT.splitlines() if b": " in line and not line.lstrip().startswith(b"#")
]
_CHANGED = [_TEXT.replace(b": " + old + b"\n", b": " + new + b"\n", 1) for old in _VALUES for new in STRANGE_JSON[:12]]
CONTENTS = damaged([_TEXT]) | damaged(_CHANGED)

SEVERAL_LINES = True


def read(content: bytes, folder: Path) -> None:
    (folder / "grid.yaml").write_bytes(content)
    load_config(folder / "grid.yaml")
