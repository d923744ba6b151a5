"""Adapters x items to log-likelihoods, on vLLM.

The names below are what a Python user needs; docs/python.md shows them at work. They load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfergrid.benchmarks.items import Item as Item
    from transfergrid.benchmarks.metrics import pick_choice as pick_choice
    from transfergrid.config.settings import EngineConfig as EngineConfig
    from transfergrid.engine.adapters.check import check_adapters as check_adapters
    from transfergrid.engine.adapters.folder import find_adapters as find_adapters
    from transfergrid.engine.models.resolve import resolve_model as resolve_model
    from transfergrid.engine.models.shapes import read_linear_shapes as read_linear_shapes
    from transfergrid.engine.models.tokenizer import (
        TokenisationSettings as TokenisationSettings,
    )
    from transfergrid.engine.models.tokenizer import (
        load_tokenizer as load_tokenizer,
    )
    from transfergrid.engine.planning.tokenisation import tokenise_items as tokenise_items
    from transfergrid.engine.scorers.launch import start_vllm as start_vllm

_HOMES = {
    "EngineConfig": "config.settings",
    "Item": "benchmarks.items",
    "TokenisationSettings": "engine.models.tokenizer",
    "check_adapters": "engine.adapters.check",
    "find_adapters": "engine.adapters.folder",
    "load_tokenizer": "engine.models.tokenizer",
    "pick_choice": "benchmarks.metrics",
    "read_linear_shapes": "engine.models.shapes",
    "resolve_model": "engine.models.resolve",
    "start_vllm": "engine.scorers.launch",
    "tokenise_items": "engine.planning.tokenisation",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"transfergrid.{_HOMES[name]}"), name)
