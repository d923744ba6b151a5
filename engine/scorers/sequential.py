"""The classic way: every adapter merged into the base, one engine start per adapter.

For comparison, and for adapters that peft can merge and vLLM cannot serve (DoRA, modules_to_save, odd ranks).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.merge import check_mergeable, merge_adapter
from transfergrid.engine.interfaces import Adapter, ItemLoglikelihoods, Prepared, TokenisedItem
from transfergrid.engine.models.device import engine_device_type, resolve_dtype
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.engine.scorers.passes import PreparedSteps
from transfergrid.engine.scorers.prepared import require_own
from transfergrid.engine.scorers.vllm import VllmScorer
from transfergrid.engine.scorers.vllm_way import VllmWay


class Sequential(VllmWay):
    """Merges every adapter and starts vLLM on the result."""

    way = "sequential"

    def check_adapter(self, folder: Path, model_folder: Path, *, name: str) -> Adapter:
        """Check that an adapter's files are there; whether it fits the base shows when it is merged.

        Raises:
            AdapterError: If a file is missing or the configuration is not peft's.
        """
        return check_mergeable(folder, name=name)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> SequentialScorer:
        """Start the engine on the base; ``max_rank`` does not matter, nothing is served as an adapter."""
        return SequentialScorer(model_folder, self.config, longest_tokens=longest_tokens)


@dataclass(frozen=True, slots=True)
class SequentialPrepared(Prepared):
    """Items, and their plan for the engine that ran when they were prepared."""

    items: tuple[TokenisedItem, ...]
    steps: PreparedSteps


@dataclass(slots=True)
class SequentialScorer:
    """Scores under one merged adapter at a time; implements ``interfaces.Scorer``."""

    model_folder: Path
    config: EngineConfig
    longest_tokens: int = field(kw_only=True)
    _engine: VllmScorer | None = field(default=None, init=False)
    _merged: str | None = field(default=None, init=False)
    """Content hash of the adapter in the running engine; None is the base."""

    def prepare(self, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> SequentialPrepared:
        """Plan the items of a batch of cells once; steps are never halved, as every adapter's engine plans anew."""
        engine = self._engine or self._start(self.model_folder, None)
        steps = engine.prepare(items)
        counts = (steps.n_items, steps.n_computed_tokens, steps.n_repeated_tokens)
        return SequentialPrepared(*counts, tuple(items), steps)

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, in no fixed order; another adapter than the last one starts another engine.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer.
            AdapterError: If the adapter cannot be merged.
        """
        own = require_own(prepared, SequentialPrepared)
        engine = self._engine_of(adapter)
        fits = own.steps.plan.limits == engine.limits
        return engine.score(own.steps if fits else engine.prepare(own.items), greedy=greedy)

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
            merge_adapter(
                self.model_folder, adapter, Path(folder), dtype=resolve_dtype(self.config.dtype, engine_device_type())
            )
            return self._start(Path(folder), wanted)

    def _start(self, folder: Path, merged: str | None) -> VllmScorer:
        self._engine = start_vllm(folder, self.config, max_rank=None, longest_tokens=self.longest_tokens)
        self._merged = merged
        return self._engine
