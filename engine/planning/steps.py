"""What a step is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
