"""A planned pass as packed steps, and the probe that shows an adapter's effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfergrid.engine.interfaces import Prepared, TokenisedItem
from transfergrid.engine.planning.packing import pack_step
from transfergrid.engine.planning.planner import Int32Array, Plan, PlanLimits, Step, StepSequence, plan_items
from transfergrid.engine.scorers.prepared import require_fit

_PROBE_TOKENS = 48


@dataclass(frozen=True, slots=True)
class PreparedSteps(Prepared):
    """A plan with its steps packed for the workers once."""

    plan: Plan
    packed: tuple[bytes, ...]


class PlannedScorer:
    """What scorers that run planned steps have in common."""

    def __init__(self, limits: PlanLimits, max_model_len: int) -> None:
        self.limits = limits
        """What one step and the KV cache hold."""
        self._max_model_len = max_model_len

    def prepare(self, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> PreparedSteps:
        """Plan the items of a batch of cells once; the result serves every adapter.

        Raises:
            UserError: If an item is longer than the engine was started for.
            ScoringError: If an item lacks tokens, or the KV cache cannot hold one item.
        """
        require_fit(items, self._max_model_len)
        plan = plan_items(items, self.limits.halved() if halve_steps else self.limits)
        packed = tuple(map(pack_step, plan.steps))
        return PreparedSteps(plan.n_items, plan.n_computed_tokens, plan.n_repeated_tokens, plan, packed)


def probe_tokens(vocab_size: int) -> Int32Array:
    """Return the tokens of the probe, from all over the vocabulary."""
    return np.linspace(0, vocab_size - 1, _PROBE_TOKENS, dtype=np.int32)


def probe_step(vocab_size: int, block_size: int) -> bytes:
    """Return a packed step that scores the probe as one sequence."""
    tokens = probe_tokens(vocab_size)
    n_blocks = -(-_PROBE_TOKENS // block_size)
    rows = np.arange(_PROBE_TOKENS - 1, dtype=np.int32)
    sequence = StepSequence(tokens[:-1], 0, tuple(range(1, n_blocks + 1)))
    return pack_step(Step((sequence,), (), rows, tokens[1:], rows))
