"""The arrays that a model runner reads, made of a packed step with NumPy; no loop over tokens or sequences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transfergrid.engine.planning.packing import PackedStep
from transfergrid.engine.planning.steps import Int32Array, Int64Array


class StepInputs(NamedTuple):
    """N sequences with T new tokens, C block copies, R distinct scored rows, S scores."""

    token_ids: Int32Array
    """Shape [T]."""
    positions: Int64Array
    """Shape [T]: place of every token in its sequence."""
    slot_mapping: Int64Array
    """Shape [T]: block x block size + offset, where its keys and values go."""
    query_starts: Int32Array
    """Shape [N + 1]: first new token of every sequence."""
    sequence_lengths: Int32Array
    """Shape [N]: computed and new tokens."""
    block_table: Int32Array
    """Shape [N, width], 0 beyond a sequence's blocks."""
    block_copies: Int64Array
    """Shape [2, C]: sources and destinations."""
    new_blocks: Int64Array
    """Blocks that the step is the first to write; some may be sources of its copies, which come before."""
    scored_rows: Int64Array
    """Shape [R]: every row that is scored once."""
    score_owners: Int64Array
    """Shape [S]: position in ``scored_rows`` of the row that a score is read from, ascending."""
    score_tokens: Int64Array
    """Shape [S]."""

    @property
    def first_scores(self) -> Int64Array:
        """Shape [R + 1]: where the scores of every scored row begin."""
        return np.searchsorted(self.score_owners, np.arange(len(self.scored_rows) + 1))


def step_inputs(step: PackedStep, *, block_size: int, table_width: int, short_tokens: int | None = None) -> StepInputs:
    """Return what a runner reads.

    Args:
        step: An unpacked step.
        block_size: Tokens per KV block.
        table_width: Blocks that one row of the block table holds.
        short_tokens: Sequences with a cached prefix and at most so many new tokens come first, then others with a
            prefix, then the rest, as some attention backends ask for; None keeps the order.
    """
    n_computed, n_new, n_blocks, token_ids, block_ids, copies, score_rows, score_tokens = step
    if short_tokens is not None:
        kinds = np.where(n_computed == 0, 2, n_new > short_tokens)
        order = np.argsort(kinds, kind="stable")
        rows = _gather(n_new, order)
        new_rows = np.empty(len(rows), dtype=np.int32)
        new_rows[rows] = np.arange(len(rows), dtype=np.int32)
        token_ids, block_ids, score_rows = token_ids[rows], block_ids[_gather(n_blocks, order)], new_rows[score_rows]
        n_computed, n_new, n_blocks = n_computed[order], n_new[order], n_blocks[order]
    query_starts = np.zeros(len(n_new) + 1, dtype=np.int32)
    np.cumsum(n_new, out=query_starts[1:])
    positions = np.arange(len(token_ids)) + np.repeat(n_computed - query_starts[:-1], n_new)
    table = np.zeros((len(n_new), table_width), dtype=np.int32)
    is_used = np.arange(table_width) < n_blocks[:, None]
    table[is_used] = block_ids
    blocks, offsets = np.divmod(positions, block_size)
    blocks += np.repeat(np.arange(0, table.size, table_width), n_new)
    is_new_row = np.ones(len(score_rows), dtype=bool)
    np.not_equal(score_rows[1:], score_rows[:-1], out=is_new_row[1:])
    return StepInputs(
        token_ids=token_ids,
        positions=positions,
        slot_mapping=table.ravel()[blocks].astype(np.int64) * block_size + offsets,
        query_starts=query_starts,
        sequence_lengths=n_computed + n_new,
        block_table=table,
        new_blocks=table[is_used & (np.arange(table_width) >= -(-n_computed // block_size)[:, None])].astype(np.int64),
        block_copies=np.ascontiguousarray(copies.T, dtype=np.int64),
        scored_rows=score_rows[is_new_row].astype(np.int64),
        score_owners=np.cumsum(is_new_row) - 1,
        score_tokens=score_tokens.astype(np.int64),
    )


def _gather(counts: Int32Array, order: Int64Array) -> Int64Array:
    """Return the positions of all values, runs of the given lengths taken in another order."""
    starts = np.cumsum(counts) - counts
    taken = counts[order]
    positions: Int64Array = np.arange(taken.sum()) + np.repeat(starts[order] - (np.cumsum(taken) - taken), taken)
    return positions
