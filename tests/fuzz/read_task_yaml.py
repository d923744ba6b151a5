"""The YAML file of a task."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.strategies import STRANGE_JSON, damaged
from transfergrid.benchmarks.spec import read_task_spec

_FOLDER = Path(__file__).parents[2] / "benchmarks"
_TEXTS = [path.read_bytes() for path in sorted(_FOLDER.rglob("*.yaml"))]
_CHANGED = [
    text.replace(line, line.partition(b":")[0] + b": " + strange)
    for text in _TEXTS
    for line in text.splitlines()
    if b": " in line
    for strange in STRANGE_JSON[:12]
]
CONTENTS = damaged(_TEXTS) | damaged(_CHANGED)
SEVERAL_LINES = True


def read(content: bytes, folder: Path) -> None:
    (folder / "task.yaml").write_bytes(content)
    read_task_spec(folder / "task.yaml")
