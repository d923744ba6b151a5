"""Steps as bytes: what goes to vLLM's workers, which may live in other processes.

Bytes pass every transport of ``collective_rpc`` (same process, spawned, tensor parallel) without pickling our classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transfergrid.engine.planning.steps import Int32Array, Step

AdapterReference = tuple[str, int, str]
"""Name, id and folder of an adapter, as they cross process borders."""

N_IN_FLIGHT = 2
"""Steps that are launched before the first one's scores are taken; workers have buffers for so many."""


class PackedStep(NamedTuple):
    """What a worker needs of a step: N sequences with T new tokens, C block copies, S scores; all int32."""

    n_computed: Int32Array
    """Shape [N]: tokens whose keys and values are in the blocks already."""
    n_new: Int32Array
    """Shape [N]: tokens to compute."""
    n_blocks: Int32Array
    """Shape [N]."""
    token_ids: Int32Array
    """Shape [T]: the new tokens, sequence after sequence."""
    block_ids: Int32Array
    """Shape [sum of n_blocks]: blocks of every sequence from its first token on."""
    block_copies: Int32Array
    """Shape [C, 2]: source and destination."""
    score_rows: Int32Array
    """Shape [S], ascending, repeats allowed: row among the new tokens."""
    score_tokens: Int32Array
    """Shape [S]."""


def pack_step(step: Step) -> bytes:
    """Return a step as little-endian int32 values: three counts, then the arrays of ``PackedStep``."""
    sequences = step.sequences
    new_tokens = [entry.token_ids[entry.n_computed :] for entry in sequences]
    parts = [
        (len(sequences), len(step.block_copies), len(step.score_rows)),
        [entry.n_computed for entry in sequences],
        [len(tokens) for tokens in new_tokens],
        [len(entry.block_ids) for entry in sequences],
        *new_tokens,
        *(entry.block_ids for entry in sequences),
        np.asarray(step.block_copies, dtype=np.int32).ravel(),
        step.score_rows,
        step.score_tokens,
    ]
    return bytes(np.concatenate([np.asarray(part, dtype="<i4") for part in parts]).data)


def unpack_step(packed: bytes) -> PackedStep:
    """Return the arrays that ``pack_step`` packed, as views of the bytes."""
    values = np.frombuffer(packed, dtype="<i4")
    n_sequences, n_copies, n_scores = values[:3].tolist()
    at = 3 + 3 * n_sequences
    n_computed, n_new, n_blocks = values[3:at].reshape(3, n_sequences)
    counts = (int(n_new.sum()), int(n_blocks.sum()), 2 * n_copies, n_scores)
    ends = np.cumsum((at, *counts)).tolist()
    tokens, blocks, copies, rows, scored = np.split(values[at:], [end - at for end in ends[1:]])
    return PackedStep(n_computed, n_new, n_blocks, tokens, blocks, copies.reshape(-1, 2), rows, scored)
