"""training.json of an adapter: as a sweep of trainings reads it to go on, and an evaluation before it scores."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.fuzz.strategies import damaged_json
from transfergrid.config.settings import ModelConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from transfergrid.engine.models.tokenizer import TokenisationSettings
from transfergrid.engine.work.base_model import ScoredBase, require_base
from transfergrid.grid import UserError
from transfergrid.store.files import hash_files
from transfergrid.store.key import changed_parts
from transfergrid.trainers.record import read_record, settings_of

_KEY = {"training": {"dtype": "auto", "epochs": 3}, "lora": {"r": 8, "target_modules": ["q_proj"]}, "data": "abc"}
_BASE = ScoredBase(ModelConfig(path="m"), Path(), TokenisationSettings(max_length=8), {"model": {"revision": "x"}})


def _content_hash() -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return _write_adapter(Path(folder))


def _write_adapter(folder: Path) -> str:
    files = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
    for file in files:
        file.write_bytes(b"{}")
    return hash_files(files)


CONTENTS = damaged_json(
    {
        "key": _KEY,
        "base": {"path": "m", "revision": "x"},
        "resolved": {"dtype": "float32"},
        "content_hash": _content_hash(),
    }
)


def read(content: bytes, folder: Path) -> None:
    _write_adapter(folder)
    (folder / RECORD_FILE).write_bytes(content)
    with suppress(UserError):
        require_base(folder, _BASE, name="mine")
    record = read_record(folder)
    changed_parts(settings_of(record or {}), _KEY)
