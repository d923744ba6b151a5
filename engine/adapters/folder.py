"""An adapter's folder: found, read once, and checked to be unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.weights import WeightsFile, read_weights
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.store.files import hash_files
from transfergrid.store.json_text import JsonError, parse_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "training.json"
"""Record that ``grid train-adapters`` leaves beside the weights."""
FOREIGN_WEIGHTS = ("adapter_model.bin", "adapters.safetensors", "adapter_model.pt", "adapter_0.pt")
"""Names of the weights of older and other libraries, which ``grid convert-adapter`` reads."""

_SAVE = "save it with peft's save_pretrained"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter as its two files say."""

    config: Mapping[str, Any]
    weights: WeightsFile
    content_hash: str
    """As of ``hash_files`` over both files."""


def find_adapters(root: Path) -> tuple[Path, ...]:
    """Return all folders at or under ``root`` that hold an adapter, sorted; links to folders are followed.

    A link that leads back to a folder it lies in is not followed, so that the search ends.

    Raises:
        AdapterError: If there is none, a folder cannot be opened, or a link leads nowhere.
    """
    try:
        folders = tuple(sorted(_adapter_folders(root, ())))
    except OSError as error:
        raise AdapterError(
            f"{str(error.filename)!r} under {str(root)!r} cannot be read: {error.strerror}; give read access, or mend "
            "or remove the link"
        ) from error
    if not folders:
        raise AdapterError(f"no adapter under {str(root)!r}; expected folders with {CONFIG_FILE} and {WEIGHTS_FILE}")
    return folders


def _adapter_folders(folder: Path, parents: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the folders of adapters at or under a folder; ``parents`` are the real folders that lead to it."""
    real = folder.resolve()
    if real in parents:
        return
    for path in folder.iterdir():
        if path.is_symlink():
            path.stat()  # raises where it leads nowhere
        if path.name == CONFIG_FILE:
            yield folder
        elif path.is_dir():
            yield from _adapter_folders(path, (*parents, real))


def require_unchanged(adapter: Adapter) -> None:
    """Check, once an engine has read an adapter, that its files are still those that were checked and hashed.

    Raises:
        AdapterError: If they changed or are gone.
    """
    try:
        now = hash_files([adapter.path / CONFIG_FILE, adapter.path / WEIGHTS_FILE])
    except OSError as error:
        raise AdapterError(
            f"adapter {adapter.name!r} cannot be read any more: {error}; leave its folder alone while the sweep "
            "runs, and give the same command again"
        ) from error
    if now != adapter.content_hash:
        raise AdapterError(
            f"adapter {adapter.name!r} changed in {str(adapter.path)!r} while the sweep ran: its content was "
            f"{adapter.content_hash[:12]!r} and is {now[:12]!r}; leave it alone, and give the same command again"
        )


def read_adapter(folder: Path, name: str) -> AdapterFolder:
    """Read an adapter's configuration and weights, each once.

    Raises:
        AdapterError: If a file is missing or damaged, or a weight is not a finite number.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        others = [other for other in FOREIGN_WEIGHTS if (folder / other).is_file()]
        way_out = f"it has {others[0]!r}, which 'grid convert-adapter' reads" if others else _SAVE
        raise AdapterError(f"adapter {name!r} has no {WEIGHTS_FILE} in {str(folder)!r}; {way_out}")
    try:
        content = (folder / CONFIG_FILE).read_bytes()
        config = parse_json(content, repr(CONFIG_FILE), allow_nan=True)
        if not isinstance(config, dict):
            raise TypeError(f"expected an object, found {config!r:.60}")
    except FileNotFoundError as error:
        raise AdapterError(f"adapter {name!r} has no {CONFIG_FILE} in {str(folder)!r}; {_SAVE}") from error
    except (OSError, TypeError, JsonError) as error:
        reason = error.reason if isinstance(error, JsonError) else error
        raise AdapterError(
            f"adapter {name!r}: {CONFIG_FILE} in {str(folder)!r} cannot be read: {reason}; save it again"
        ) from error
    try:
        weights = read_weights(folder / WEIGHTS_FILE)
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"adapter {name!r}: {WEIGHTS_FILE} in {str(folder)!r} cannot be used: {error}; save or train it again"
        ) from error
    digest = hashlib.sha256()
    for file, sha256 in ((CONFIG_FILE, hashlib.sha256(content).hexdigest()), (WEIGHTS_FILE, weights.sha256)):
        digest.update(f"{file}\0{sha256}\n".encode())
    return AdapterFolder(config, weights, digest.hexdigest())
