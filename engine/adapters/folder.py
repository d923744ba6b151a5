"""An adapter's folder: found, read, and seen to be unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.shapes import DAMAGED, header_shapes
from transfergrid.store.files import hash_files

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "training.json"
"""Record that ``grid train-adapters`` leaves beside the weights."""
MODULE_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")


def find_adapters(root: Path) -> tuple[Path, ...]:
    """Return all folders at or under ``root`` that hold an adapter, sorted.

    Raises:
        AdapterError: If there is none.
    """
    folders = tuple(sorted(path.parent for path in root.rglob(CONFIG_FILE)))
    if not folders:
        raise AdapterError(f"no adapter under {str(root)!r}; expected folders with {CONFIG_FILE} and {WEIGHTS_FILE}")
    return folders


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


def read_adapter_config(folder: Path, name: str) -> dict[str, Any]:
    """Return adapter_config.json, and see that the weights lie beside it."""
    if not (folder / WEIGHTS_FILE).is_file():
        raise AdapterError(
            f"adapter {name!r} has no {WEIGHTS_FILE} in {str(folder)!r}; save it with peft's save_pretrained"
        )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"adapter {name!r}: {CONFIG_FILE} in {str(folder)!r} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise AdapterError(f"adapter {name!r} is of type {kind!r}; expected 'LORA'")
    return config


def read_adapter_shapes(file: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's tensors."""
    try:
        return header_shapes(file)
    except DAMAGED as error:
        raise AdapterError(
            f"adapter {name!r}: {file.name} is not a safetensors file ({error}); save it again"
        ) from error


def pair_sides(shapes: Mapping[str, tuple[int, ...]], name: str) -> dict[str, tuple[int, int]]:
    """Return (out, in) per adapted layer from the shapes of its A and B."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        match = MODULE_KEY.fullmatch(key)
        if not match:
            raise AdapterError(f"adapter {name!r} holds {key!r}; expected only lora_A and lora_B weights")
        sides.setdefault(match["module"], {})[match["side"]] = shape
    if not sides:
        raise AdapterError(f"adapter {name!r} holds no weights; save it again")
    pairs = {}
    for module, pair in sides.items():
        if len(pair) != 2 or pair["A"][0] != pair["B"][1]:
            raise AdapterError(f"adapter {name!r}: A and B of {module!r} do not fit ({pair!r}); save it again")
        pairs[module] = (pair["B"][0], pair["A"][1])
    return pairs
