"""Steps that came over a network: refused unless they fit the engine's limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.planning.packing import PackedStep, unpack_step
from transfergrid.engine.planning.planner import PlanLimits


def check_packed_step(packed: bytes, limits: PlanLimits, *, vocab_size: int, max_model_len: int) -> int:
    """Check one packed step, which a client sent.

    Returns:
        Number of the step's scores.

    Raises:
        ScoringError: If the bytes are no step, or the step does not fit the engine.
    """
    if not _is_whole(packed):
        raise ScoringError(f"{len(packed)} bytes are not a packed step; send what pack_step returns")
    step = unpack_step(packed)
    faults = [*_step_faults(step, limits, vocab_size), *_sequence_faults(step, limits, vocab_size, max_model_len)]
    if faults:
        raise ScoringError(f"a step does not fit this engine: {'; '.join(faults[:3])}; plan it for its limits")
    return len(step.score_rows)


def _is_whole(packed: bytes) -> bool:
    """Whether the bytes have the length that the counts at their start ask for."""
    if len(packed) % 4 or len(packed) < 24:
        return False
    values = np.frombuffer(packed, dtype="<i4").astype(np.int64)
    n_sequences, n_copies, n_scores = values[:3].tolist()
    if n_sequences < 1 or 3 + 3 * n_sequences > len(values):
        return False
    counts = values[3 : 3 + 3 * n_sequences]
    if min(n_copies, n_scores, int(counts.min())) < 0:
        return False
    n_tokens_and_blocks = int(counts[n_sequences:].sum())
    return bool(len(values) == 3 + 3 * n_sequences + n_tokens_and_blocks + 2 * n_copies + 2 * n_scores)


def _step_faults(step: PackedStep, limits: PlanLimits, vocab_size: int) -> Iterator[str]:
    """Yield what is wrong with a step as a whole."""
    n_sequences, n_tokens = len(step.n_new), len(step.token_ids)
    if not 1 <= n_sequences <= limits.max_step_sequences:
        yield f"{n_sequences} sequences, expected 1 to {limits.max_step_sequences}"
    if not 1 <= n_tokens <= limits.max_step_tokens:
        yield f"{n_tokens} new tokens, expected 1 to {limits.max_step_tokens}"
    if _outside(step.score_rows, 0, n_tokens).any():
        yield f"a scored row is outside 0..{n_tokens - 1}"
    if _outside(step.score_tokens, 0, vocab_size).any():
        yield f"a scored token is outside 0..{vocab_size - 1}"
    if _outside(step.block_copies, 1, limits.n_blocks + 1).any():
        yield f"a copied block is outside 1..{limits.n_blocks}"


def _sequence_faults(step: PackedStep, limits: PlanLimits, vocab_size: int, max_model_len: int) -> Iterator[str]:
    """Yield what is wrong with the first sequence that has each fault."""
    n_computed, n_new, n_blocks = (counts.astype(np.int64) for counts in step[:3])
    n_tokens, most_blocks = n_computed + n_new, -(-max_model_len // limits.block_size)
    for at in _first((n_new < 1) | (n_tokens > max_model_len)):
        yield (
            f"sequence {at} has {n_computed[at]} tokens computed of {n_tokens[at]}, of which {max_model_len} fit and "
            "one or more must be new"
        )
    for token in _first(_outside(step.token_ids, 0, vocab_size)):
        yield f"sequence {_owner(n_new, token)} has a token outside 0..{vocab_size - 1}"
    for at in _first((n_tokens > n_blocks * limits.block_size) | (n_blocks > most_blocks)):
        yield f"sequence {at} has {n_blocks[at]} blocks of {limits.block_size} for {n_tokens[at]} tokens"
    for block in _first(_outside(step.block_ids, 1, limits.n_blocks + 1)):
        yield f"sequence {_owner(n_blocks, block)} has a block outside 1..{limits.n_blocks}"


def _outside(values: np.ndarray, low: int, end: int) -> np.ndarray:
    """Return which values do not lie in low..end-1."""
    outside: np.ndarray = (values < low) | (values >= end)
    return outside


def _first(is_fault: np.ndarray) -> list[int]:
    """Return the position of the first fault, if there is one."""
    found: list[int] = np.flatnonzero(is_fault)[:1].tolist()
    return found


def _owner(counts: np.ndarray, position: int) -> int:
    """Return the sequence that a position in the concatenation of all sequences' values belongs to."""
    return int(np.searchsorted(np.cumsum(counts), position, side="right"))
