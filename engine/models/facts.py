"""The size of a base model, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transfergrid.engine.models.decoder import checked_folder, read_decoder_config
from transfergrid.grid import UserError


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
    config = read_decoder_config(checked_folder(folder))
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        layers, inner = int(config["num_hidden_layers"]), int(config["intermediate_size"])
        vocabulary, positions = int(config["vocab_size"]), int(config["max_position_embeddings"])
    except KeyError as error:
        raise UserError(
            f"config.json in {str(folder)!r} has no {error.args[0]!r}; expected a decoder-only model such as Llama, "
            "Qwen2 or Gemma 3"
        ) from error
    head_dim = int(config.get("head_dim") or hidden // heads)
    kv_width = int(config.get("num_key_value_heads") or heads) * head_dim
    per_layer = hidden * (2 * heads * head_dim + 2 * kv_width + 3 * inner)
    return ModelFacts(
        n_layers=layers,
        hidden_size=hidden,
        vocab_size=vocabulary,
        max_positions=positions,
        n_layer_parameters=layers * per_layer,
        n_kv_values_per_token=layers * 2 * kv_width,
        quantised_bytes=_weight_file_bytes(folder) if config.get("quantization_config") else None,
    )


def _weight_file_bytes(folder: Path) -> int | None:
    """Return the size of a folder's weights; None where there are none yet."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) or None
