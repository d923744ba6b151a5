"""Reading ``training.json``, which says what an adapter was trained with and how that went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from transfergrid.engine.interfaces import AdapterError
from transfergrid.store.files import hash_files
from transfergrid.store.json_text import JsonError, read_json


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a finished adapter; None where there is no folder.

    Raises:
        AdapterError: If the folder is not as this project wrote it.
    """
    if not folder.exists():
        return None
    try:
        record = read_json(folder / RECORD_FILE)
        content_hash = hash_files([folder / CONFIG_FILE, folder / WEIGHTS_FILE])
    except (OSError, JsonError) as error:
        reason = error.reason if isinstance(error, JsonError) else error
        raise AdapterError(f"adapter folder {str(folder)!r} is not complete ({reason}); delete it") from error
    if not isinstance(record, dict) or not isinstance(record.get("key"), dict):
        raise AdapterError(
            f"adapter folder {str(folder)!r} has a {RECORD_FILE} that 'grid train-adapters' did not write; delete the "
            "folder"
        )
    if record.get("content_hash") != content_hash:
        raise AdapterError(f"adapter in {str(folder)!r} was changed after its training; delete the folder")
    return record


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided an adapter's weights; early records keep the number format only beside it."""
    key: dict[str, Any] = record["key"]
    match key, record:
        case {"training": {"dtype": "auto"} as training}, {"resolved": {"dtype": dtype}}:
            return {**key, "training": {**training, "dtype": dtype}}
    return key
