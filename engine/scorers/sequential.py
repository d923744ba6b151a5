"""The classic way: every adapter merged into the base, one engine start per adapter.

For comparison, and for adapters that peft can merge and vLLM cannot serve (DoRA, modules_to_save, odd ranks).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import CONFIG_FILE, WEIGHTS_FILE, require_unchanged
from transfergrid.engine.interfaces import (
    Adapter,
    AdapterError,
    ItemLoglikelihoods,
    Prepared,
    ScoringError,
    TokenisedItem,
)
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.scorers.multi_lora import vllm_key_parts
from transfergrid.engine.scorers.vllm import PreparedSteps, VllmScorer, start_vllm
from transfergrid.store.files import hash_files


@dataclass(frozen=True, slots=True)
class Sequential:
    """Backend that merges every adapter and starts vLLM on the result."""

    config: EngineConfig

    def key_parts(self) -> Mapping[str, Any]:
        """Return vLLM, its version and the way."""
        return vllm_key_parts("sequential", self.config)

    def check_adapter(self, folder: Path, model_folder: Path, *, name: str) -> Adapter:
        """Check that an adapter's files are there; whether it fits the base shows when it is merged.

        Raises:
            AdapterError: If a file is missing or the configuration is not peft's.
        """
        return check_mergeable(folder, name=name)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> SequentialScorer:
        """Start the engine on the base; ``max_rank`` does not matter, nothing is served as an adapter."""
        return SequentialScorer(model_folder, self.config, longest_tokens=longest_tokens)


@dataclass(slots=True)
class SequentialPrepared:
    """Items, and their plan for the engine that runs now."""

    items: tuple[TokenisedItem, ...]
    steps: PreparedSteps

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.steps.n_items

    @property
    def n_computed_tokens(self) -> int:
        """Tokens that one adapter's pass computes."""
        return self.steps.n_computed_tokens

    @property
    def n_repeated_tokens(self) -> int:
        """Tokens a pass would compute if every choice repeated its context."""
        return self.steps.n_repeated_tokens


@dataclass(slots=True)
class SequentialScorer:
    """Scores under one merged adapter at a time; implements ``protocol.Scorer``."""

    model_folder: Path
    config: EngineConfig
    longest_tokens: int = field(kw_only=True)
    _engine: VllmScorer | None = field(default=None, init=False)
    _merged: str | None = field(default=None, init=False)
    """Content hash of the adapter in the running engine; None is the base."""

    def prepare(self, items: Sequence[TokenisedItem]) -> SequentialPrepared:
        """Plan the items of a batch of cells once."""
        engine = self._engine or self._start(self.model_folder, None)
        return SequentialPrepared(tuple(items), engine.prepare(items))

    def score(self, prepared: Prepared, adapter: Adapter | None = None) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, in no fixed order; another adapter than the last one starts another engine.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer.
            AdapterError: If the adapter cannot be merged.
        """
        if not isinstance(prepared, SequentialPrepared):
            raise ScoringError(f"items prepared by another scorer ({type(prepared).__name__}); prepare them with this")
        engine = self._engine_of(adapter)
        if prepared.steps.plan.limits != engine.limits:
            prepared.steps = engine.prepare(prepared.items)
        return engine.score(prepared.steps)

    def prefetch(self, adapter: Adapter) -> None:
        """Do nothing: two merged models would not fit into memory."""

    def close(self) -> None:
        """Free the model."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _engine_of(self, adapter: Adapter | None) -> VllmScorer:
        wanted = None if adapter is None else adapter.content_hash
        if self._engine is not None and wanted == self._merged:
            return self._engine
        self.close()
        if adapter is None:
            return self._start(self.model_folder, None)
        with tempfile.TemporaryDirectory(prefix="merged-") as folder:
            merge_adapter(self.model_folder, adapter, Path(folder), dtype=resolve_dtype(self.config.dtype))
            return self._start(Path(folder), wanted)

    def _start(self, folder: Path, merged: str | None) -> VllmScorer:
        self._engine = start_vllm(folder, self.config, max_rank=None, longest_tokens=self.longest_tokens)
        self._merged = merged
        return self._engine


def check_mergeable(folder: Path, *, name: str) -> Adapter:
    """Check that a folder holds a peft adapter, whatever vLLM thinks of it.

    Raises:
        AdapterError: If a file is missing or the configuration is not peft's.
    """
    files = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
    if missing := [file.name for file in files if not file.is_file()]:
        raise AdapterError(
            f"adapter {name!r} has no {missing[0]} in {str(folder)!r}; save it with peft's save_pretrained"
        )
    try:
        config = json.loads(files[0].read_text(encoding="utf-8"))
        rank = int(config.get("r", 1))
    except (ValueError, AttributeError, TypeError) as error:
        raise AdapterError(f"adapter {name!r}: {CONFIG_FILE} cannot be read: {error}; save it again") from error
    content_hash = hash_files(files)
    return Adapter(name=f"{name}@{content_hash[:12]}", path=folder, content_hash=content_hash, rank=rank)


def merge_adapter(model_folder: Path, adapter: Adapter, folder: Path, *, dtype: str) -> None:
    """Write a base model with an adapter merged into its weights.

    Args:
        model_folder: Local folder of the base.
        adapter: The adapter.
        folder: Where the merged model goes.
        dtype: Number format of the base, the merge and the result.

    Raises:
        AdapterError: If peft cannot load it onto this base or does not use all of its weights, or it changed since it
            was checked.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype=getattr(torch, dtype))
    try:
        with safe_open(adapter.path / WEIGHTS_FILE, framework="pt") as file:
            saved = set(file.keys())
        model = PeftModel.from_pretrained(base, str(adapter.path))
        unused = sorted(saved ^ set(get_peft_model_state_dict(model)))
    except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        require_unchanged(adapter)
        raise AdapterError(f"adapter {adapter.name!r} cannot be merged: {error}") from error
    require_unchanged(adapter)
    if unused:
        raise AdapterError(
            f"adapter {adapter.name!r} does not fit this base: {len(unused)} weights differ, for example "
            f"{unused[0]!r}; merge it into the base it was trained on"
        )
    model.merge_and_unload().save_pretrained(folder)
