"""Adapters in peft's folder format: found, checked against the base and what vLLM serves, named by their content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfergrid.config.settings import MAX_LORA_RANK, TARGET_MODULES
from transfergrid.engine.adapters.folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    pair_sides,
    read_adapter_config,
    read_adapter_shapes,
)
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.shapes import LinearShapes, layer_name
from transfergrid.store.files import hash_files

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Slot sizes that vLLM 0.32 has (``vllm/config/lora.py``); an adapter takes the next larger one."""

# What vLLM 0.32 does not serve (vllm/lora/peft_helper.py), how peft's configuration says it, and the way out
_UNSERVED = (
    ("use_dora", "uses DoRA", "merge it into the base, or train it without use_dora"),
    ("lora_bias", "has biases in its LoRA layers", "train it with lora_bias: false"),
    ("modules_to_save", "saves whole modules", "train it without modules_to_save"),
    ("alora_invocation_tokens", "is an activated LoRA", "train a plain LoRA"),
    ("layer_replication", "replicates layers", "merge it into the base"),
    ("use_bdlora", "is block-diagonal", "train a plain LoRA"),
    ("use_qalora", "uses QALoRA", "train a plain LoRA"),
)
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq")
_OUTER_MODULES = ("embed_tokens", "lm_head")


def check_adapters(adapters: Mapping[str, Path], base: LinearShapes) -> dict[str, Adapter]:
    """Check all adapters before anything is loaded.

    Args:
        adapters: Folder by readable name.
        base: Linear layers of the base, from ``read_linear_shapes``.

    Raises:
        AdapterError: If any cannot be served; lists every fault.
    """
    checked, faults = {}, []
    for name, folder in adapters.items():
        try:
            checked[name] = check_adapter(folder, base, name=name)
        except AdapterError as error:
            faults.append(str(error))
    if faults:
        raise AdapterError("\n".join(faults))
    return checked


def check_adapter(folder: Path, base: LinearShapes, *, name: str) -> Adapter:
    """Check one adapter's configuration and the shapes of its weights; reads no weights but to hash them.

    Args:
        folder: peft's folder.
        base: Linear layers of the base, from ``read_linear_shapes``.
        name: Readable part of the adapter's unique name.

    Raises:
        AdapterError: If files are missing or broken, vLLM cannot serve what it holds, or it belongs to another base.
    """
    config = read_adapter_config(folder, name)
    _refuse_unserved(config, name)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and 1 <= rank <= MAX_LORA_RANK for rank in ranks):
        raise AdapterError(
            f"adapter {name!r} has ranks {ranks!r}; vLLM serves 1 to {MAX_LORA_RANK}, train a smaller one"
        )
    shapes = read_adapter_shapes(folder / WEIGHTS_FILE, name)
    _match_base(pair_sides(shapes, name), base, name)
    content_hash = hash_files([folder / CONFIG_FILE, folder / WEIGHTS_FILE])
    return Adapter(name=f"{name}@{content_hash[:12]}", path=folder, content_hash=content_hash, rank=max(ranks))


def served_rank(rank: int) -> int:
    """Return the smallest slot size that vLLM has for a rank.

    Raises:
        AdapterError: If the rank is above vLLM's list.
    """
    for served in SERVED_RANKS:
        if rank <= served:
            return served
    raise AdapterError(f"rank {rank} is above what vLLM serves; expected at most {SERVED_RANKS[-1]}")


def _refuse_unserved(config: Mapping[str, Any], name: str) -> None:
    """Refuse what vLLM would refuse later, or worse, ignore."""
    for key, what, way_out in _UNSERVED:
        if config.get(key):
            raise AdapterError(f"adapter {name!r} {what} ({key}={config[key]!r}), which vLLM does not serve; {way_out}")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"adapter {name!r} trains biases (bias={config['bias']!r}); train it with bias: none")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING_INITS):
        raise AdapterError(
            f"adapter {name!r} was started with init_lora_weights={init!r}, which changes the base; convert it with "
            "peft's path_initial_model_for_weight_conversion"
        )


def _match_base(pairs: LinearShapes, base: LinearShapes, name: str) -> None:
    """See that every adapted layer is one of the base's, in the base's shape."""
    for module, shape in pairs.items():
        if module.rpartition(".")[2] in _OUTER_MODULES:
            raise AdapterError(
                f"adapter {name!r} adapts {module!r}, which is not served; train it on linear layers of the decoder, "
                f"for example {list(TARGET_MODULES)}"
            )
        layer = layer_name(module)
        if base.get(layer) != shape:
            raise AdapterError(
                f"adapter {name!r} does not fit this base: {module!r} is {shape} there and {base.get(layer)} here; "
                "score it with the base it was trained on"
            )
