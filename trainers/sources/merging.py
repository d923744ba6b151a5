"""Merges: adapters made of others by peft's ``add_weighted_adapter``, on layers that hold no base weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transfergrid.config.sources import Merge
from transfergrid.config.training import TARGET_MODULES
from transfergrid.config.values import MAX_LORA_RANK
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.interfaces import AdapterError
from transfergrid.store.json_text import header_shapes, read_json

MERGED = "default"
"""peft saves an adapter of this name into the folder itself."""


def merge_adapters(folders: Sequence[Path], merge: Merge, *, seed: int) -> Any:
    """Return a peft model whose only adapter is the merge of others, in float32 on the CPU.

    The layers have the shapes of the base's and none of its weights, since no method reads any; the tests compare with
    peft on a whole model, bit for bit.

    The seed is that of the values which ``dare_linear`` and ``dare_ties`` drop at random.

    Raises:
        AdapterError: If their ranks do not fit the method, or the merge has a rank that is not served.
    """
    import torch
    from peft import PeftConfig, PeftModel

    _require_ranks(folders, merge)
    names = [f"parent{number}" for number in range(len(folders))]
    configs = [PeftConfig.from_pretrained(str(folder)) for folder in folders]
    for config in configs:
        config.task_type = None  # the layers cannot generate text
    with torch.random.fork_rng(devices=[]):
        layers = _bare_layers(folders)
        model = PeftModel.from_pretrained(
            layers, str(folders[0]), adapter_name=names[0], config=configs[0], torch_device="cpu"
        )
        for name, folder, config in zip(names[1:], folders[1:], configs[1:], strict=True):
            model.load_adapter(str(folder), adapter_name=name, peft_config=config, torch_device="cpu")
        torch.manual_seed(seed)
        model.add_weighted_adapter(
            names, list(merge.weights), MERGED, combination_type=merge.method, density=merge.density
        )
    model.set_adapter(MERGED)
    for name in names:
        model.delete_adapter(name)
    config = model.peft_config[MERGED]
    config.task_type = "CAUSAL_LM"
    config.use_rslora = False  # the merged weights hold the scale; peft keeps the first adapter's setting
    return model


def saved_keys(folders: Iterable[Path]) -> set[str]:
    """Return the names of all weights that some adapters have."""
    return {key for folder in folders for key in header_shapes(folder / WEIGHTS_FILE)}


def _require_ranks(folders: Sequence[Path], merge: Merge) -> None:
    ranks = [int(read_json(folder / CONFIG_FILE)["r"]) for folder in folders]
    if merge.method not in ("cat", "svd") and len(set(ranks)) > 1:
        raise AdapterError(
            f"method {merge.method!r} needs adapters of one rank, these have {ranks}; use 'cat' or 'svd', or train "
            "them with one lora.r"
        )
    if merge.method == "cat" and sum(ranks) > MAX_LORA_RANK:
        raise AdapterError(f"method 'cat' would have rank {sum(ranks)}, at most {MAX_LORA_RANK} is served; use 'svd'")


def _bare_layers(folders: Iterable[Path]) -> Any:
    """Return nested modules with a linear layer for each that an adapter has, in the order of a decoder.

    Every layer's weight is one number in memory, seen as a whole matrix.
    """
    import torch

    sizes: dict[str, dict[str, int]] = {}
    for folder in folders:
        for key, shape in header_shapes(folder / WEIGHTS_FILE).items():
            name, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            sizes.setdefault(name, {})[side] = shape[1] if side == "A" else shape[0]
    root = torch.nn.Module()
    for name in sorted(sizes, key=_place):
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        linear = torch.nn.Linear(sizes[name]["A"], sizes[name]["B"], bias=False, device="meta")
        weight = torch.zeros(1).expand(linear.out_features, linear.in_features)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        module.add_module(last, linear)
    return root


def _place(name: str) -> tuple[list[int], int, str]:
    """Return what sorts layers as a decoder has them: by the numbers in the name, then query to down projection."""
    parts = name.split(".")
    numbers = [int(part) for part in parts if part.isdigit()]
    known = TARGET_MODULES.index(parts[-1]) if parts[-1] in TARGET_MODULES else len(TARGET_MODULES)
    return numbers, known, name
