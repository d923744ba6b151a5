"""An adapter's weights added to those of its base."""

from __future__ import annotations

import json
from pathlib import Path

from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE, require_unchanged
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.store.files import hash_files


def check_mergeable(folder: Path, *, name: str) -> Adapter:
    """Check that a folder holds a peft adapter, whatever vLLM thinks of it.

    Raises:
        AdapterError: If a file is missing or the configuration is not peft's.
    """
    files = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
    if missing := [file.name for file in files if not file.is_file()]:
        raise AdapterError(
            f"adapter {name!r} has no {missing[0]} in {str(folder)!r}; save it with peft's save_pretrained"
        )
    try:
        config = json.loads(files[0].read_text(encoding="utf-8"))
        rank = int(config.get("r", 1))
    except (ValueError, AttributeError, TypeError) as error:
        raise AdapterError(f"adapter {name!r}: {CONFIG_FILE} cannot be read: {error}; save it again") from error
    content_hash = hash_files(files)
    return Adapter(name=f"{name}@{content_hash[:12]}", path=folder, content_hash=content_hash, rank=rank)


def merge_adapter(model_folder: Path, adapter: Adapter, folder: Path, *, dtype: str) -> None:
    """Write a base model with an adapter merged into its weights.

    Args:
        model_folder: Local folder of the base.
        adapter: The adapter.
        folder: Where the merged model goes.
        dtype: Number format of the base, the merge and the result.

    Raises:
        AdapterError: If peft cannot load it onto this base or does not use all of its weights, or it changed since it
            was checked.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype=getattr(torch, dtype))
    try:
        with safe_open(adapter.path / WEIGHTS_FILE, framework="pt") as file:
            saved = set(file.keys())
        model = PeftModel.from_pretrained(base, str(adapter.path))
        unused = sorted(saved ^ set(get_peft_model_state_dict(model)))
    except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        require_unchanged(adapter)
        raise AdapterError(f"adapter {adapter.name!r} cannot be merged: {error}") from error
    require_unchanged(adapter)
    if unused:
        raise AdapterError(
            f"adapter {adapter.name!r} does not fit this base: {len(unused)} weights differ, for example "
            f"{unused[0]!r}; merge it into the base it was trained on"
        )
    model.merge_and_unload().save_pretrained(folder)
