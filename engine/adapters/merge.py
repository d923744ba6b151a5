"""An adapter's weights added to those of its base."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE, read_adapter, require_unchanged
from transfergrid.engine.adapters.full import refuse_full
from transfergrid.engine.adapters.lora_config import PROMPTS
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.grid import UserError
from transfergrid.store.files import move_into_place
from transfergrid.store.json_text import read_json


def check_mergeable(folder: Path, *, name: str) -> Adapter:
    """Check that a folder holds a peft adapter of weights; vLLM need not serve it.

    Raises:
        AdapterError: If a file is missing or damaged, or there are no weights to merge.
    """
    found = read_adapter(folder, name)
    refuse_full(found.config, name)
    kind, rank = found.config.get("peft_type"), found.config.get("r")
    if not isinstance(kind, str) or kind.upper() in PROMPTS:
        raise AdapterError(
            f"adapter {name!r} is of type {kind!r}, which has no weights to merge; expected a LoRA or another adapter "
            "that peft merges; if another library wrote it, try 'grid convert-adapter'"
        )
    return Adapter(
        name=f"{name}@{found.content_hash[:12]}",
        path=folder,
        content_hash=found.content_hash,
        rank=rank if isinstance(rank, int) else 1,
    )


def merge_adapter(model_folder: Path, adapter: Adapter, folder: Path, *, dtype: str) -> None:
    """Write a base model with an adapter merged into its weights, all in one number format.

    Tied embeddings are untied first: peft adds to one end of the tie, and a merge must not change the other.

    Raises:
        AdapterError: If peft cannot load it onto this base, does not use all of its weights or cannot merge it, or it
            changed since it was checked.
    """
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype=getattr(torch, dtype))
    try:
        merged, unused = _merge(base, adapter)
    except Exception as error:  # peft and the model raise errors of any kind for an adapter that does not fit
        require_unchanged(adapter)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise AdapterError(f"adapter {adapter.name!r} cannot be merged: {reason:.300}") from error
    require_unchanged(adapter)
    if unused:
        raise AdapterError(
            f"adapter {adapter.name!r} does not fit this base: {len(unused)} weights differ, for example "
            f"{unused[0]!r}; merge it into the base it was trained on"
        )
    merged.save_pretrained(folder)


def _merge(base: Any, adapter: Adapter) -> tuple[Any, list[str]]:
    """Return a base with an adapter merged, and the names of weights that only one of the two has."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from torch.nn import Parameter

    with safe_open(adapter.path / WEIGHTS_FILE, framework="pt") as file:
        saved = set(file.keys())
    inner, outer = base.get_input_embeddings(), base.get_output_embeddings()
    model = PeftModel.from_pretrained(base, str(adapter.path))
    saved = {key for key in saved if not key.endswith(".base_layer.weight")}  # of embeddings: a copy of the base's
    unused = sorted(saved ^ set(get_peft_model_state_dict(model, save_embedding_layers=False)))
    if unused:
        return base, unused
    is_adapted = base.get_input_embeddings() is not inner or base.get_output_embeddings() is not outer
    if is_adapted and outer.weight is inner.weight:
        outer.weight = Parameter(inner.weight.detach().clone(), requires_grad=False)
        for config in (base.config, base.config.get_text_config()):
            config.tie_word_embeddings = False
    return model.merge_and_unload(safe_merge=True), unused


def merge_to_folder(adapter_folder: Path, target: Path, *, base: str | None, revision: str | None) -> str:
    """Write the base of an adapter with the adapter merged in, and the tokenizer, into a new folder.

    Args:
        adapter_folder: A peft adapter.
        target: The new folder; it appears when all of it is written.
        base: Base model, a folder or hub id; None: what the adapter's own record or configuration names.
        revision: Revision of a base from the hub.

    Returns:
        A sentence on what was written.

    Raises:
        AdapterError: If the adapter cannot be merged into this base.
        UserError: If the base cannot be found or is not the one the adapter was trained on, or the folder exists.
    """
    from transfergrid.engine.models.resolve import model_revision, resolve_model
    from transfergrid.engine.models.tokenizer import load_tokenizer

    if target.exists():
        raise UserError(f"{str(target)!r} exists and is kept; name a folder that is to be made")
    adapter = check_mergeable(adapter_folder, name=adapter_folder.name)
    named, trained_on = _base_of(adapter_folder)
    try:
        model = resolve_model(base or named, revision)
    except UserError as error:
        raise UserError(f"{error}; name the adapter's base with --base") from error
    if trained_on not in (None, found := model_revision(model)):
        raise UserError(
            f"adapter {adapter_folder.name!r} was trained on revision {str(trained_on)[:12]!r} of its base, "
            f"{str(model)!r} is {found[:12]!r}; name the base it was trained on with --base and --revision"
        )
    config = read_json(model / "config.json", allow_nan=True)
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".merge-") as scratch:
        folder = Path(scratch) / "merged"
        merge_adapter(model, adapter, folder, dtype=dtype)
        load_tokenizer(model).save_pretrained(str(folder))
        move_into_place(folder, target)
    return f"{adapter_folder.name} merged into {base or named} in {dtype}: {target}"


def _base_of(folder: Path) -> tuple[str, str | None]:
    """Return the base that an adapter's own files name, and the revision it was trained on where a record says so."""
    config, record_path = read_json(folder / CONFIG_FILE), folder / RECORD_FILE
    record = read_json(record_path) if record_path.exists() else {}
    trained_from = record.get("resolved", {}).get("model_folder")
    is_there = isinstance(trained_from, str) and Path(trained_from).is_dir()
    named = trained_from if is_there else config.get("base_model_name_or_path")
    return str(named), record.get("base", {}).get("revision")
