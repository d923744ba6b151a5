"""An adapter's weights added to those of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.folder import WEIGHTS_FILE, read_adapter, require_unchanged
from transfergrid.engine.adapters.lora_config import PROMPTS
from transfergrid.engine.interfaces import Adapter, AdapterError


def check_mergeable(folder: Path, *, name: str) -> Adapter:
    """Check that a folder holds a peft adapter of weights; vLLM need not serve it.

    Raises:
        AdapterError: If a file is missing or damaged, or there are no weights to merge.
    """
    found = read_adapter(folder, name)
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
    """Write a base model with an adapter merged into its weights.

    Tied embeddings are untied first: peft adds to one end of the tie, and a merge must not change the other.

    Args:
        model_folder: Local folder of the base.
        adapter: The adapter.
        folder: Where the merged model goes.
        dtype: Number format of the base, the merge and the result.

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
