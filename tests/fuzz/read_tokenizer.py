"""A tokenizer's two files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.fuzz.strategies import damaged, damaged_json
from tests.models import make_tiny_tokenizer
from transfergrid.engine.models.token_facts import token_facts
from transfergrid.engine.models.tokenizer import TokenisationSettings, encode_items, load_tokenizer

_NAMES = ("tokenizer.json", "tokenizer_config.json")


def _files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        make_tiny_tokenizer(Path(folder))
        return {name: (Path(folder) / name).read_bytes() for name in _NAMES}


_FILES = _files()
CONTENTS = damaged_json(*map(json.loads, _FILES.values())) | damaged(list(_FILES.values()))


def read(content: bytes, folder: Path) -> None:
    is_tokenizer = b'"model":' in content or len(content) % 2 == 0
    for name in _NAMES:
        (folder / name).write_bytes(content if is_tokenizer == (name == _NAMES[0]) else _FILES[name])
    settings = TokenisationSettings(max_length=64)
    token_facts(folder, settings)
    list(encode_items(load_tokenizer(folder), ["A question: é"], [[" one", " two"]]))
