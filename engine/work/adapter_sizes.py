"""Bytes of adapters and full fine-tunes that are not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transfergrid.config.settings import GridConfig
from transfergrid.config.training import LoraConfig
from transfergrid.engine.adapters.places import AdapterPlace
from transfergrid.engine.models.decoder import read_decoder_config
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.models.facts import DTYPE_BYTES, read_model_facts
from transfergrid.engine.models.shapes import LinearShapes, plan_linear_shapes

_WEIGHT_BYTES = 4  # peft saves adapters in float32 unless told otherwise
FULL_BYTES = 5 * 4
"""Memory that a weight of a full fine-tune takes: itself, its gradient, AdamW's two averages, the best epoch's."""


def bytes_to_make(places: Sequence[AdapterPlace], config: GridConfig, folder: Path) -> int:
    """Return the size on disk of what is to be made; merges by ``cat`` and variants may have another rank."""
    ranks = {recipe.source.name: recipe.merge.rank(1) for recipe in config.recipes if recipe.merge is not None}
    shapes, n_bytes = plan_linear_shapes(folder), 0
    for place in places:
        recipe = config.of(place.source.variant)
        if recipe.training.method == "full":
            n_bytes += n_weights(folder) * DTYPE_BYTES[resolve_dtype(recipe.training.dtype)]
        else:
            n_bytes += ranks.get(place.source.name, 1) * adapter_bytes(shapes, recipe.lora)
    return n_bytes


def full_training_bytes(places: Sequence[AdapterPlace], config: GridConfig, folder: Path) -> int:
    """Return the memory that full fine-tuning takes beside the base; 0 where there is none to be made."""
    is_full = any(config.of(place.source.variant).training.method == "full" for place in places)
    return FULL_BYTES * n_weights(folder) if is_full else 0


def n_weights(folder: Path) -> int:
    """Return the weights of a model's matrices: its layers, its embeddings and, where it is not tied, its head."""
    facts = read_model_facts(folder)
    n_tables = 1 if read_decoder_config(folder).get("tie_word_embeddings") else 2
    return facts.n_layer_parameters + n_tables * facts.vocab_size * facts.hidden_size


def adapter_bytes(shapes: LinearShapes, lora: LoraConfig) -> int:
    """Return the size of one adapter's weights in float32."""
    adapted = (shape for module, shape in shapes.items() if module.rpartition(".")[2] in lora.target_modules)
    return _WEIGHT_BYTES * lora.r * sum(n_out + n_in for n_out, n_in in adapted)
