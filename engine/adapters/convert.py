"""Adapters of other libraries and older forms, written as a plain LoRA in peft's format."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import CONFIG_FILE, FOREIGN_WEIGHTS, RECORD_FILE, WEIGHTS_FILE
from transfergrid.engine.adapters.foreign_keys import HALVED, INTERLEAVED, LoraKey, mlx_config, read_key, rotate_back
from transfergrid.engine.adapters.lora_config import read_lora_config
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.models.decoder import peft_names, read_decoder_config
from transfergrid.engine.models.shapes import layer_name, read_linear_shapes
from transfergrid.grid import UserError
from transfergrid.store.files import move_into_place, write_json
from transfergrid.store.json_text import read_json

PROBE_TOLERANCE_NATS = 1e-2
"""Largest difference of a log-probability, in float32, that a conversion may make."""

_PREFIX = "model."
_REPEATED_INITS = ("pissa", "olora")  # those that a base decides to the last bit


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted, for one line."""

    target: Path
    n_layers: int
    rank: int
    difference_nats: float | None
    """Largest difference to the source in peft on a probe; None: not compared."""

    def __str__(self) -> str:
        """Return one sentence."""
        found = f"{self.n_layers} layers of rank {self.rank} in {str(self.target)!r}"
        if self.difference_nats is None:
            return f"{found}; not compared with the source in peft, which cannot read it or was given no --base"
        return f"{found}; a probe differs from the source in peft by {self.difference_nats:.1e} nats at most"


def convert_adapter(source: Path, target: Path, *, base: Path | None = None) -> Conversion:
    """Write an adapter of another form as a plain LoRA in peft's format.

    Args:
        source: Folder with adapter_config.json and weights: peft's with a .bin file, an adapter's name or a wrapper's
            prefix in the keys, or started by PiSSA or OLoRA; mlx-lm's; torchtune's.
        target: Folder to write; must not exist.
        base: Local folder of the base; needed for PiSSA, OLoRA and torchtune. Where it is given and peft can read the
            source, both are compared on a probe.

    Raises:
        AdapterError: If the source cannot be read, needs the base, or does not score as before.
        UserError: If the target exists.
    """
    if target.exists():
        raise UserError(f"{str(target)!r} exists; expected a new folder")
    raw, name = read_json(source / CONFIG_FILE), source.name
    if not isinstance(raw, dict):
        raise AdapterError(f"adapter {name!r}: {CONFIG_FILE} holds {raw!r:.60}; expected an object")
    init = raw.get("init_lora_weights", True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        folder = Path(scratch) / "adapter"
        if isinstance(init, str) and init.lower().startswith(_REPEATED_INITS):
            _subtract_start(source, folder, base, init=init)
        else:
            _rename(source, folder, raw, base)
        shapes = read_linear_shapes(base) if base is not None else _own_shapes(folder)
        adapter = check_adapter(folder, shapes, name=name)
        difference = None if base is None else _probe(base, source, folder)
        if difference is not None and difference > PROBE_TOLERANCE_NATS:
            raise AdapterError(
                f"adapter {name!r} differs from its source in peft by {difference:.2g} nats on a probe; expected "
                f"{PROBE_TOLERANCE_NATS} at most; nothing is written; report this as a bug"
            )
        if (source / RECORD_FILE).is_file():
            shutil.copy(source / RECORD_FILE, folder)
        move_into_place(folder, target)
    return Conversion(target, len(adapter.layers), adapter.rank, difference)


def _rename(source: Path, folder: Path, raw: Mapping[str, Any], base: Path | None) -> None:
    """Write the weights under peft's names, and the configuration that goes with them."""
    from safetensors.torch import save_file

    name, prefix = source.name, _PREFIX if base is None else peft_names(base).prefix.removeprefix("base_model.model.")
    weights: dict[str, Any] = {}
    for key, value in _load(source).items():
        found = read_key(key, prefix, name)
        renamed = f"base_model.model.{found.module}.lora_{found.side}.weight"
        if renamed in weights:
            raise AdapterError(f"adapter {name!r} holds {renamed!r} twice under different names; remove one")
        tensor = value.T if found.is_transposed else value
        weights[renamed] = _ordered(tensor, found, base, name).contiguous()
    config = mlx_config(raw, name) if "lora_parameters" in raw else dict(raw)
    config |= {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": config.get("bias") or "none"}
    modules = sorted({key.removeprefix("base_model.model.").partition(".lora_")[0] for key in weights})
    config.setdefault("target_modules", [])
    if not all(map(read_lora_config(config, name).is_target, modules)):
        config["target_modules"] = sorted({module.rpartition(".")[2] for module in modules})
        config |= {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    folder.mkdir()
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, config)


def _ordered(tensor: Any, key: LoraKey, base: Path | None, name: str) -> Any:
    """Return a weight with its rows in transformers' order."""
    if not key.is_torchtune or key.side == "A" or not key.module.endswith(("q_proj", "k_proj")):
        return tensor
    if base is None:
        raise AdapterError(f"adapter {name!r} is torchtune's, whose order of rows the base decides; give --base")
    config = read_decoder_config(base)
    kind = str(config.get("model_type"))
    if kind in HALVED:
        return tensor
    if kind not in INTERLEAVED:
        raise AdapterError(
            f"adapter {name!r} is torchtune's for a {kind!r}, whose order of rows is not known; expected one of "
            f"{[*INTERLEAVED, *HALVED]}"
        )
    return rotate_back(tensor, config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _load(source: Path) -> dict[str, Any]:
    """Return the tensors of the first file of weights that a folder holds; runs no code of it."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    names = (WEIGHTS_FILE, *FOREIGN_WEIGHTS)
    file = next((source / name for name in names if (source / name).is_file()), None)
    if file is None:
        raise AdapterError(f"{str(source)!r} holds no weights; expected one of {list(names)}")
    try:
        is_safe = file.suffix == ".safetensors"
        weights = load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, EOFError, ValueError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"{str(file)!r} cannot be read: {reason:.200}; expected a file of tensors alone") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise AdapterError(f"{str(file)!r} holds more than names and tensors; expected a file of LoRA weights")
    return {str(key): value for key, value in weights.items()}


def _subtract_start(source: Path, folder: Path, base: Path | None, *, init: str) -> None:
    """Let peft write a PiSSA or OLoRA adapter as a plain one: what training changed of A and B, of twice the rank."""
    if base is None or "niter" in init.lower():
        reason = "is drawn at random" if base is not None else "comes from the base; give --base"
        raise AdapterError(
            f"adapter {source.name!r} was started with init_lora_weights={init!r}, and its start {reason}; without it "
            "the adapter cannot be converted ('grid eval --sequential' merges it as peft does)"
        )
    from peft import LoraConfig, PeftModel, get_peft_model

    try:
        start = folder.parent / f"{init.lower()}-start"
        get_peft_model(_load_base(base), LoraConfig.from_pretrained(str(source))).save_pretrained(start)
        model = PeftModel.from_pretrained(_load_base(base), str(source))
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
    except Exception as error:  # peft raises errors of any kind for an adapter it cannot read
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        raise AdapterError(f"adapter {source.name!r} cannot be converted by peft: {reason}") from error
    for extra in folder.glob("README.md"):
        extra.unlink()


def _load_base(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)


def _own_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return (out, in) of the layers as the weights say; for adapters given without a base."""
    from transfergrid.store.json_text import header_shapes

    shapes = header_shapes(folder / WEIGHTS_FILE)
    pairs = {key: key.replace(".lora_A.", ".lora_B.") for key in shapes if ".lora_A." in key}
    return {layer_name(a.partition(".lora_")[0]): (shapes[b][0], shapes[a][1]) for a, b in pairs.items() if b in shapes}


def _probe(base: Path, source: Path, folder: Path) -> float | None:
    """Return the largest difference that the conversion makes to a probe; None where peft does not read the source."""
    before = _probe_logprobs(base, source)
    return None if before is None else float((before - _probe_logprobs(base, folder)).abs().max())


def _probe_logprobs(base: Path, folder: Path) -> Any:
    """Return log-probabilities of tokens from all over the vocabulary; None if peft leaves a weight of the file out."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    n_saved = len(_load(folder))
    try:
        model = PeftModel.from_pretrained(_load_base(base), str(folder))
    except Exception:  # whatever peft raises: it does not read this form
        return None
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    largest = {key: float(value.abs().max()) for key, value in loaded.items() if ".lora_B" in key}
    if len(loaded) != n_saved or not any(largest.values()):
        return None
    tokens = torch.linspace(0, model.config.get_text_config().vocab_size - 1, 48).long()[None]
    with torch.inference_mode():
        return model(tokens).logits.double().log_softmax(-1)
