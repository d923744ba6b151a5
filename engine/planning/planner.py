"""Tokenised items to steps of a fixed size, planned once and run for every adapter.

The items of a batch of cells become one radix tree (``radix.py``), its heavy paths become sequences, and the sequences
are laid out over steps and KV blocks (``schedule.py``). No torch, no vLLM; what a step says, the worker does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transfergrid.engine.interfaces import ItemLoglikelihoods, TokenisedItem
from transfergrid.engine.planning.radix import (
    Chains,
    Requests,
    ScoredRows,
    build_chains,
    find_scored_rows,
    flatten_items,
)
from transfergrid.engine.planning.schedule import PlanLimits, StepLayout, schedule_chains
from transfergrid.engine.planning.steps import Int32Array, Int64Array, Step, StepSequence

__all__ = ["Int32Array", "Int64Array", "Plan", "PlanLimits", "Step", "StepSequence", "plan_items"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps that score every choice of some items, and where each choice's log-probabilities land."""

    steps: tuple[Step, ...]
    completed_items: tuple[Int32Array, ...]
    """Per step the positions of the items whose last log-probability it gives."""
    n_slots: int
    """Length of the flat result: distinct (row, token) pairs."""
    choice_slots: Int32Array
    """Slots of every choice's tokens, choice after choice, item after item."""
    choice_offsets: Int64Array
    """Shape [choices + 1]: where each choice starts in ``choice_slots``."""
    item_offsets: Int64Array
    """Shape [items + 1]: where each item's choices start in ``choice_offsets``."""
    limits: PlanLimits
    n_unique_tokens: int
    """Nodes of the radix tree."""
    n_computed_tokens: int
    """Tokens that one pass over the steps computes."""
    n_repeated_tokens: int
    """Tokens a pass would compute if every choice repeated its context."""
    peak_blocks: int
    """Most KV blocks in use at once."""

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_offsets) - 1

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return len(self.steps)

    @property
    def n_sequences(self) -> int:
        """Sequences of all steps; a path cut over two steps counts twice."""
        return sum(len(step.sequences) for step in self.steps)

    @property
    def mean_fill(self) -> float:
        """Mean share of the token budget that a step uses; 0 without steps."""
        return self.n_computed_tokens / (self.n_steps * self.limits.max_step_tokens) if self.steps else 0.0

    def loglikelihoods(
        self, logprobs: npt.NDArray[np.floating], step_index: int, greedy: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[ItemLoglikelihoods]:
        """Sum the items that are complete after a step.

        Args:
            logprobs: Shape [n_slots], natural logs; every slot of this and all earlier steps is filled in.
            step_index: Position of the step in ``steps``.
            greedy: Shape [n_slots], whether greedy decoding would choose the slot's token; None: not asked for.

        Yields:
            One result per item, float64 sums per choice.
        """
        for item in self.completed_items[step_index].tolist():
            offsets = self.choice_offsets[self.item_offsets[item] : self.item_offsets[item + 1] + 1]
            slots, starts = self.choice_slots[offsets[0] : offsets[-1]], offsets[:-1] - offsets[0]
            sums = np.add.reduceat(logprobs[slots].astype(np.float64), starts)
            chosen = None if greedy is None else tuple(np.logical_and.reduceat(greedy[slots], starts).tolist())
            yield ItemLoglikelihoods(item, tuple(sums.tolist()), chosen)


def plan_items(items: Sequence[TokenisedItem], limits: PlanLimits) -> Plan:
    """Plan the items of a batch of cells.

    Returns:
        A plan that computes every distinct prefix once.

    Raises:
        ScoringError: If an item lacks tokens, or the KV cache cannot hold one item.
    """
    requests = flatten_items(items)
    chains = build_chains(requests)
    scored = find_scored_rows(requests, chains)
    schedule = schedule_chains(chains, limits)
    assembly = _Assembly(requests, chains, scored)
    steps = tuple(assembly.step(layout) for layout in schedule.steps)
    return Plan(
        steps=steps,
        completed_items=_completed_items(requests, scored, steps),
        n_slots=len(scored.rows),
        choice_slots=scored.request_slots,
        choice_offsets=scored.request_offsets,
        item_offsets=requests.item_offsets,
        limits=limits,
        n_unique_tokens=chains.n_tokens,
        n_computed_tokens=sum(step.n_new_tokens for step in steps),
        n_repeated_tokens=int(requests.path_lengths.sum()),
        peak_blocks=schedule.peak_blocks,
    )


class _Assembly:
    """Turns the layout of a step into arrays the worker reads."""

    def __init__(self, requests: Requests, chains: Chains, scored: ScoredRows) -> None:
        self._tokens = requests.tokens
        self._starts: list[int] = chains.token_starts.tolist()
        computed = chains.lengths - chains.branch_depths
        self._row_starts = np.cumsum(computed) - computed - chains.branch_depths
        self._scored = scored

    def step(self, layout: StepLayout) -> Step:
        """Build one step."""
        chains, begins, ends = np.array([piece[:3] for piece in layout.pieces], dtype=np.int64).T
        first_rows = self._row_starts[chains] + begins
        lows, highs = np.searchsorted(self._scored.rows, (first_rows, first_rows + ends - begins))
        counts = highs - lows
        slots = np.arange(counts.sum()) + (lows - np.cumsum(counts) + counts).repeat(counts)
        step_starts = np.cumsum(ends - begins) - (ends - begins)
        return Step(
            sequences=tuple(
                StepSequence(self._tokens[self._starts[chain] : self._starts[chain] + end], begin, block_ids)
                for chain, begin, end, block_ids in layout.pieces
            ),
            block_copies=tuple(layout.block_copies),
            score_rows=(self._scored.rows[slots] + (step_starts - first_rows).repeat(counts)).astype(np.int32),
            score_tokens=self._scored.tokens[slots],
            score_slots=slots.astype(np.int32),
        )


def _completed_items(requests: Requests, scored: ScoredRows, steps: Sequence[Step]) -> tuple[Int32Array, ...]:
    """Return per step the items whose last slot it fills."""
    if not steps:
        return ()
    slot_steps = np.empty(len(scored.rows), dtype=np.int32)
    for index, step in enumerate(steps):
        slot_steps[step.score_slots] = index
    item_starts = scored.request_offsets[requests.item_offsets[:-1]]
    last_steps = np.maximum.reduceat(slot_steps[scored.request_slots], item_starts)
    order = np.argsort(last_steps, kind="stable").astype(np.int32)
    bounds = np.searchsorted(last_steps[order], np.arange(1, len(steps)))
    return tuple(np.split(order, bounds))
