"""The size of a base model, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transfergrid.engine.models.decoder import read_decoder_config
from transfergrid.grid import UserError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number by the name of its format."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Size of a decoder-only base model, read from its ``config.json`` alone."""

    n_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    """Longest sequence in tokens."""
    n_layer_parameters: int
    """Weights of all linear layers between the embeddings and the vocabulary projection: 2 FLOP each per token."""
    n_kv_values_per_token: int
    """Keys and values that one token keeps, over all layers."""
    quantised_bytes: int | None = None
    """Size of the weights' files where they are quantised; None: they are loaded in the engine's number format."""


def read_model_facts(folder: Path) -> ModelFacts:
    """Read the size of a resolved model's decoder from its configuration; loads no weights.

    Raises:
        UserError: If ``config.json`` does not describe a decoder-only model of the usual shape.
    """
    config = read_decoder_config(folder)

    def number(key: str, otherwise: int | None = None) -> int:
        value = config.get(key, otherwise)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        said = f"has no {key!r}" if value is None else f"holds {key} {value!r:.40}"
        raise UserError(
            f"config.json in {str(folder)!r} {said}; expected a whole number of 1 or more there, as in a decoder-only "
            "model such as Llama, Qwen2 or Gemma 3"
        )

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    layers, inner = number("num_hidden_layers"), number("intermediate_size")
    head_dim = number("head_dim", max(hidden // heads, 1))
    kv_width = number("num_key_value_heads", heads) * head_dim
    per_layer = hidden * (2 * heads * head_dim + 2 * kv_width + 3 * inner)
    return ModelFacts(
        n_layers=layers,
        hidden_size=hidden,
        vocab_size=number("vocab_size"),
        max_positions=number("max_position_embeddings"),
        n_layer_parameters=layers * per_layer,
        n_kv_values_per_token=layers * 2 * kv_width,
        quantised_bytes=_weight_file_bytes(folder) if config.get("quantization_config") else None,
    )


def _weight_file_bytes(folder: Path) -> int | None:
    """Return the size of a folder's weights; None where there are none yet."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) or None
