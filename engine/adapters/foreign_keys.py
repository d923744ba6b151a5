"""Names that other libraries and wrappers give to LoRA weights, in peft's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from transfergrid.engine.interfaces import AdapterError

# What torch.compile, distributed wrappers and peft put before or between the names of modules
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:base_model\.model|_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_KEY = re.compile(
    r"(?P<module>.*\blayers\.\d+\..+?)\.lora_(?P<side>[ABab])(?:\.(?!weight$)(?P<adapter>[^.]+))?(?:\.weight)?"
)
# torchtune/models/convert_weights.py
_TORCHTUNE = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}
INTERLEAVED = ("llama", "mistral", "gemma")
"""Models whose queries and keys torchtune keeps with the rotary pairs side by side, as Meta published them."""
HALVED = ("qwen2", "qwen3")
"""Models whose queries and keys torchtune keeps as transformers does."""


class LoraKey(NamedTuple):
    """One LoRA weight by its name in another library."""

    module: str
    """In the base's words, from ``model.`` on."""
    side: str
    """A or B."""
    is_transposed: bool
    """Whether the file holds the transpose, as mlx does."""
    is_torchtune: bool


def read_key(key: str, prefix: str, name: str) -> LoraKey:
    """Return what a key of any known form names; ``prefix`` is what the base puts before ``layers.``.

    Raises:
        AdapterError: If it is no LoRA weight of a decoder's layer, or that of another adapter than ``default``.
    """
    match = _KEY.fullmatch(_WRAPPERS.sub("", key))
    if not match:
        raise AdapterError(
            f"adapter {name!r} holds {key!r:.200}, which is no LoRA weight of a decoder's layer; expected keys such as "
            f"'base_model.model.{prefix}layers.0.self_attn.q_proj.lora_A.weight'"
        )
    module, side = match["module"], match["side"]
    before, _, layer = module.rpartition("layers.")
    number, _, end = layer.partition(".")
    is_torchtune = end in _TORCHTUNE
    module = f"{before or prefix}layers.{number}.{_TORCHTUNE.get(end, end)}"
    is_transposed = side.islower() and not key.endswith(".weight")
    return LoraKey(module, side.upper(), is_transposed, is_torchtune)


def rotate_back(b: Any, head_dim: int) -> Any:
    """Return B of a query or key projection with its rows as transformers orders them.

    Args:
        b: Shape [heads x head_dim, r], the two values of a rotary pair in neighbouring rows.
        head_dim: Rows of one head.

    Returns:
        Shape as given: first the first values of all pairs of a head, then the second ones.
    """
    return b.reshape(-1, head_dim // 2, 2, b.shape[-1]).swapaxes(1, 2).reshape(b.shape)


def mlx_config(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return mlx-lm's adapter_config.json in peft's words: its scale is what peft calls alpha / r.

    Raises:
        AdapterError: If it is no LoRA, or rank and scale are not numbers.
    """
    parameters = raw.get("lora_parameters")
    kind = raw.get("fine_tune_type", "lora")
    if kind != "lora" or not isinstance(parameters, dict):
        raise AdapterError(
            f"adapter {name!r} is mlx's {kind!r} with {parameters!r:.80}; expected 'lora' and its rank and scale"
        )
    rank, scale = parameters.get("rank"), parameters.get("scale")
    if not isinstance(rank, int) or not isinstance(scale, int | float):
        raise AdapterError(f"adapter {name!r}, lora_parameters: rank={rank!r} and scale={scale!r}; expected numbers")
    return {"r": rank, "lora_alpha": scale * rank, "base_model_name_or_path": raw.get("model")}
