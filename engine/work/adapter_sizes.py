"""Bytes of adapters that are not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transfergrid.config.settings import GridConfig
from transfergrid.config.training import LoraConfig
from transfergrid.engine.adapters.places import AdapterPlace
from transfergrid.engine.models.shapes import LinearShapes, plan_linear_shapes

_WEIGHT_BYTES = 4  # peft saves adapters in float32 unless told otherwise


def bytes_to_make(places: Sequence[AdapterPlace], config: GridConfig, folder: Path) -> int:
    """Return the size of some adapters; merges by ``cat`` and variants may have another rank than the others."""
    ranks = {recipe.source.name: recipe.merge.rank(1) for recipe in config.recipes if recipe.merge is not None}
    shapes = plan_linear_shapes(folder)
    sources = [place.source for place in places]
    return sum(ranks.get(each.name, 1) * adapter_bytes(shapes, config.of(each.variant).lora) for each in sources)


def adapter_bytes(shapes: LinearShapes, lora: LoraConfig) -> int:
    """Return the size of one adapter's weights in float32."""
    adapted = (shape for module, shape in shapes.items() if module.rpartition(".")[2] in lora.target_modules)
    return _WEIGHT_BYTES * lora.r * sum(n_out + n_in for n_out, n_in in adapted)
