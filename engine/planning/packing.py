"""Steps as bytes: what goes to vLLM's workers, which may live in other processes.

Bytes pass every transport of ``collective_rpc`` (same process, spawned, tensor parallel) without pickling our classes.
"""

from __future__ import annotations

import numpy as np

from transfergrid.engine.planning.planner import Int32Array, Step, StepSequence

AdapterReference = tuple[str, int, str]
"""Name, id and folder of an adapter, as they cross process borders."""


def pack_step(step: Step) -> bytes:
    """Return a step as little-endian int32 values: three counts, then the sequences, copies and scores."""
    sequences = step.sequences
    shapes = [(len(entry.token_ids), entry.n_computed, len(entry.block_ids)) for entry in sequences]
    parts = [
        (len(sequences), len(step.block_copies), len(step.score_rows)),
        np.asarray(shapes, dtype=np.int32).ravel(),
        *(entry.token_ids for entry in sequences),
        *(entry.block_ids for entry in sequences),
        np.asarray(step.block_copies, dtype=np.int32).ravel(),
        step.score_rows,
        step.score_tokens,
        step.score_slots,
    ]
    return bytes(np.concatenate([np.asarray(part, dtype="<i4") for part in parts]).data)


def unpack_step(packed: bytes) -> Step:
    """Return the step that ``pack_step`` packed; its arrays are views of the bytes."""
    values = np.frombuffer(packed, dtype="<i4")
    n_sequences, n_copies, n_scores = values[:3].tolist()
    shapes = values[3 : 3 + 3 * n_sequences].reshape(-1, 3)
    token_ends = np.cumsum(shapes[:, 0])
    block_ends = np.cumsum(shapes[:, 2])
    at = 3 + 3 * n_sequences
    tokens, at = _take(values, at, int(token_ends[-1]))
    blocks, at = _take(values, at, int(block_ends[-1]))
    copies, at = _take(values, at, 2 * n_copies)
    score_rows, at = _take(values, at, n_scores)
    score_tokens, at = _take(values, at, n_scores)
    score_slots, at = _take(values, at, n_scores)
    sequences = tuple(
        StepSequence(token_ids, n_computed, tuple(block_ids.tolist()))
        for token_ids, n_computed, block_ids in zip(
            np.split(tokens, token_ends[:-1]),
            shapes[:, 1].tolist(),
            np.split(blocks, block_ends[:-1]),
            strict=True,
        )
    )
    block_copies = tuple((source, target) for source, target in copies.reshape(-1, 2).tolist())
    return Step(sequences, block_copies, score_rows, score_tokens, score_slots)


def _take(values: Int32Array, start: int, count: int) -> tuple[Int32Array, int]:
    """Return the next ``count`` values and where the rest begins."""
    return values[start : start + count], start + count
