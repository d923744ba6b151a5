"""Adapters in peft's folder format: found, checked against the base and what vLLM serves, named by their content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfergrid.config.settings import MAX_LORA_RANK, TARGET_MODULES
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.decoder import peft_names
from transfergrid.store.files import hash_files, write_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "training.json"
"""Record that ``grid train-adapters`` leaves beside the weights."""

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
_MODULE_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what reading a header that is none can raise
_OUTER_MODULES = ("embed_tokens", "lm_head")

LinearShapes = Mapping[str, tuple[int, int]]
"""(out, in) of linear layers by their name from ``layers.`` on: ``layers.0.self_attn.q_proj``."""


def find_adapters(root: Path) -> tuple[Path, ...]:
    """Return all folders at or under ``root`` that hold an adapter, sorted.

    Raises:
        AdapterError: If there is none.
    """
    folders = tuple(sorted(path.parent for path in root.rglob(CONFIG_FILE)))
    if not folders:
        raise AdapterError(f"no adapter under {str(root)!r}; expected folders with {CONFIG_FILE} and {WEIGHTS_FILE}")
    return folders


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
    config = _read_config(folder, name)
    _refuse_unserved(config, name)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and 1 <= rank <= MAX_LORA_RANK for rank in ranks):
        raise AdapterError(
            f"adapter {name!r} has ranks {ranks!r}; vLLM serves 1 to {MAX_LORA_RANK}, train a smaller one"
        )
    shapes = _read_shapes(folder / WEIGHTS_FILE, name)
    _match_base(_pair_sides(shapes, name), base, name)
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


def read_linear_shapes(model_folder: Path) -> dict[str, tuple[int, int]]:
    """Return (out, in) of all linear layers of a base, read from the headers of its safetensors files.

    Raises:
        AdapterError: If a file is damaged, the folder holds no safetensors, or none of them holds decoder layers.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for file in sorted(model_folder.glob("*.safetensors")):
        shapes |= _decoder_layers(_base_shapes(file))
    if not shapes:
        raise AdapterError(
            f"{str(model_folder)!r} has no safetensors with decoder layers; expected the base model's own folder"
        )
    return shapes


def plan_linear_shapes(model_folder: Path) -> dict[str, tuple[int, int]]:
    """Return what ``read_linear_shapes`` does; for a hub's snapshot without weights, from its configuration.

    Raises:
        AdapterError: As ``read_linear_shapes``, or if transformers cannot read the configuration.
    """
    if model_folder.parent.name != "snapshots" or any(model_folder.glob("*.safetensors")):
        return read_linear_shapes(model_folder)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(model_folder), local_files_only=True)
        with torch.device("meta"):  # shapes without memory
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise AdapterError(
            f"the layers of the model in {str(model_folder)!r} cannot be told from its config.json "
            f"({str(error).partition('. ')[0]}); expected a causal language model that transformers knows"
        ) from error
    return _decoder_layers({name: tuple(weight.shape) for name, weight in model.named_parameters()})


def adapter_modules(adapter: Adapter) -> frozenset[str]:
    """Return the linear layers that an adapter's file has non-zero A for, named from ``layers.`` on."""
    return _nonzero_layers(adapter, "A")


def is_null_adapter(adapter: Adapter) -> bool:
    """Whether every B of an adapter is zero, so that it must score exactly as the base."""
    return not _nonzero_layers(adapter, "B")


def require_modules(adapter: Adapter, applied: Iterable[str]) -> None:
    """Check that the layers that carry an adapter in the engine are those its file has.

    Args:
        adapter: The adapter.
        applied: Layers with non-zero weights in the adapter's slot.

    Raises:
        AdapterError: If a layer is missing or unexpected.
    """
    expected, found = adapter_modules(adapter), {_layer_name(name) for name in applied}
    if expected == found:
        return
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    raise AdapterError(
        f"adapter {adapter.name!r} is not applied as saved: missing layers {missing[:3]} ({len(missing)}), unexpected "
        f"layers {unexpected[:3]} ({len(unexpected)}); check that it was trained on this base"
    )


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


def make_null_adapter(
    model_folder: Path, folder: Path, *, rank: int = 8, target_modules: Iterable[str] = TARGET_MODULES
) -> Path:
    """Write an adapter with random A and B = 0, which must score exactly as the base; return its folder."""
    from safetensors.numpy import save_file

    targets, names = sorted(target_modules), peft_names(model_folder)
    generator = np.random.default_rng(0)
    weights = {}
    for module, (n_out, n_in) in read_linear_shapes(model_folder).items():
        if module.rpartition(".")[2] in targets:
            key = f"{names.prefix}{module}"
            weights[f"{key}.lora_A.weight"] = generator.standard_normal((rank, n_in), dtype=np.float32)
            weights[f"{key}.lora_B.weight"] = np.zeros((n_out, rank), dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS_FILE)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    layers = {"target_modules": targets, "exclude_modules": names.excluded}
    write_json(folder / CONFIG_FILE, {**config, **layers, "base_model_name_or_path": str(model_folder)})
    return folder


def _read_config(folder: Path, name: str) -> dict[str, Any]:
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


def _header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a safetensors file's header."""
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        if size > file.stat().st_size:
            raise ValueError(f"header of {size} bytes in a file of {file.stat().st_size}")
        header = json.loads(handle.read(size))
    return {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}


def _decoder_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of the linear layers among a base's weights."""
    return {
        module: (shape[0], shape[1])
        for key, shape in shapes.items()
        if key.endswith("_proj.weight") and len(shape) == 2 and (module := _layer_name(key.removesuffix(".weight")))
    }


def _base_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a base's tensors in one of its files."""
    try:
        return _header_shapes(file)
    except _DAMAGED as error:
        raise AdapterError(
            f"{file.name!r} in model folder {str(file.parent)!r} is not a safetensors file ({error}); was it cloned "
            "without git-lfs, or not downloaded to its end? Fetch it again"
        ) from error


def _read_shapes(file: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's tensors."""
    try:
        return _header_shapes(file)
    except _DAMAGED as error:
        raise AdapterError(
            f"adapter {name!r}: {file.name} is not a safetensors file ({error}); save it again"
        ) from error


def _pair_sides(shapes: Mapping[str, tuple[int, ...]], name: str) -> dict[str, tuple[int, int]]:
    """Return (out, in) per adapted layer from the shapes of its A and B."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        match = _MODULE_KEY.fullmatch(key)
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


def _match_base(pairs: LinearShapes, base: LinearShapes, name: str) -> None:
    """See that every adapted layer is one of the base's, in the base's shape."""
    for module, shape in pairs.items():
        if module.rpartition(".")[2] in _OUTER_MODULES:
            raise AdapterError(
                f"adapter {name!r} adapts {module!r}, which is not served; train it on linear layers of the decoder, "
                f"for example {list(TARGET_MODULES)}"
            )
        layer = _layer_name(module)
        if base.get(layer) != shape:
            raise AdapterError(
                f"adapter {name!r} does not fit this base: {module!r} is {shape} there and {base.get(layer)} here; "
                "score it with the base it was trained on"
            )


def _layer_name(module: str) -> str:
    """Return a layer's name from ``layers.`` on, the same in checkpoints, peft and vLLM; empty outside the decoder."""
    before, marker, after = module.rpartition("layers.")
    outside = "vision" in before or not marker
    return "" if outside else marker + after


def _nonzero_layers(adapter: Adapter, side: str) -> frozenset[str]:
    """Return the layers whose A or B is not all zero in an adapter's file."""
    from safetensors import safe_open

    found = set()
    with safe_open(adapter.path / WEIGHTS_FILE, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            match = _MODULE_KEY.fullmatch(key)
            if match and match["side"] == side and bool(file.get_tensor(key).any()):
                found.add(_layer_name(match["module"]))
    return frozenset(found)
