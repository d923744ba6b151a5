"""Full fine-tunes: all weights of a model, in an adapter's two files, so that they are found, sent and kept like one.

``adapter_config.json`` says ``peft_type: FULL``; the weights have the names of the base's checkpoint and take their
place. peft cannot load them; the folder's README says how transformers does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.folder import AdapterFolder
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.shapes import LinearShapes, decoder_layers

FULL = "FULL"
"""``peft_type`` of a full fine-tune."""


def is_full(config: Mapping[str, Any]) -> bool:
    """Whether ``adapter_config.json`` is that of a full fine-tune."""
    return config.get("peft_type") == FULL


def refuse_full(config: Mapping[str, Any], name: str) -> None:
    """Refuse a full fine-tune where only adapters are taken.

    Raises:
        AdapterError: If it is one.
    """
    if is_full(config):
        raise AdapterError(
            f"{name!r} is a full fine-tune, which the default engine scores and no other way does; use 'grid eval "
            "--engine vllm'"
        )


def check_full(found: AdapterFolder, folder: Path, base: LinearShapes, *, name: str) -> Adapter:
    """Check that a full fine-tune has the layers of the base, in its shapes.

    Raises:
        AdapterError: If a layer is missing, unexpected or of another shape.
    """
    layers = decoder_layers(found.weights.shapes)
    if wrong := sorted(key for key in {*layers, *base} if layers.get(key) != base.get(key)):
        key = wrong[0]
        raise AdapterError(
            f"full fine-tune {name!r} does not fit this base: {len(wrong)} layer(s) differ, for example {key!r}, which "
            f"is {layers.get(key, 'missing')} there and {base.get(key, 'missing')} here; score it with the base it was "
            "trained on"
        )
    content = found.content_hash
    return Adapter(name=f"{name}@{content[:12]}", path=folder, content_hash=content, rank=0, is_full=True)
