"""Tokenised items to steps of a fixed size, planned once and run for every adapter.

The items of a batch of cells become one radix tree (``radix.py``), its heavy paths become sequences, and the sequences
are laid out over steps and KV blocks (``schedule.py``). No torch, no vLLM; what a step says, the worker does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transfergrid.engine.protocol import ItemLoglikelihoods

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepSequence:
    """What one step computes of one root-to-leaf path of the tree."""

    token_ids: Int32Array
    """Shape [n_computed + n_new]: the path from its first token to the last one this step computes."""
    n_computed: int
    """Tokens whose keys and values are in the blocks already; may lie inside a block."""
    block_ids: tuple[int, ...]
    """Logical KV blocks of the path, 1..n_blocks, in order; enough for ``token_ids``."""


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: some sequences, block copies before it, rows scored after it."""

    sequences: tuple[StepSequence, ...]
    block_copies: tuple[tuple[int, int], ...]
    """(source, destination) of whole blocks, done before the step; no block is both in one step."""
    score_rows: Int32Array
    """Shape [S], ascending, repeats allowed: row among the step's new tokens, in order of the sequences."""
    score_tokens: Int32Array
    """Shape [S]: token whose log-probability is read from that row."""
    score_slots: Int32Array
    """Shape [S]: place of that log-probability in the plan's flat result."""

    @property
    def n_new_tokens(self) -> int:
        """Tokens this step computes."""
        return sum(len(sequence.token_ids) - sequence.n_computed for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """What one step and the KV cache can hold."""

    max_step_tokens: int
    """Most new tokens of one step."""
    max_step_sequences: int
    """Most sequences of one step."""
    n_blocks: int
    """Logical KV blocks, numbered 1..n_blocks."""
    block_size: int
    """Tokens per KV block."""


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

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_offsets) - 1

    @property
    def n_choices(self) -> int:
        """Number of (item, choice) requests."""
        return len(self.choice_offsets) - 1

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

    def loglikelihoods(self, logprobs: npt.NDArray[np.floating], step_index: int) -> Iterator[ItemLoglikelihoods]:
        """Sum the items that are complete after a step.

        Args:
            logprobs: Shape [n_slots], natural logs; every slot of this and all earlier steps is filled in.
            step_index: Position of the step in ``steps``.

        Yields:
            One result per item, float64 sums per choice.
        """
        for item in self.completed_items[step_index].tolist():
            offsets = self.choice_offsets[self.item_offsets[item] : self.item_offsets[item + 1] + 1]
            values = logprobs[self.choice_slots[offsets[0] : offsets[-1]]].astype(np.float64)
            sums = np.add.reduceat(values, offsets[:-1] - offsets[0])
            yield ItemLoglikelihoods(item, tuple(sums.tolist()))
