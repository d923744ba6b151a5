"""Steps that came over a network: refused unless the workers can run them without touching what is not theirs."""

from __future__ import annotations

import numpy as np

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.planning.packing import unpack_step
from transfergrid.engine.planning.planner import PlanLimits, Step, StepSequence


def check_packed_step(packed: bytes, limits: PlanLimits, *, vocab_size: int, max_model_len: int) -> int:
    """Check one packed step.

    Args:
        packed: From ``steps.pack_step``, by whoever sent it.
        limits: What one step and the KV cache hold.
        vocab_size: Token ids are 0..vocab_size-1.
        max_model_len: Longest sequence, tokens.

    Returns:
        Number of the step's scores.

    Raises:
        ScoringError: If the bytes are no step, or the step does not fit the engine.
    """
    if not _is_whole(packed):
        raise ScoringError(f"{len(packed)} bytes are not a packed step; send what pack_step returns")
    step = unpack_step(packed)
    faults = _step_faults(step, limits, vocab_size)
    for number, sequence in enumerate(step.sequences):
        found = _sequence_faults(sequence, limits, vocab_size, max_model_len)
        faults += [f"sequence {number} {fault}" for fault in found]
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
    shapes = values[3 : 3 + 3 * n_sequences]
    if min(n_copies, n_scores, int(shapes.min())) < 0:
        return False
    n_tokens_and_blocks = int(shapes[0::3].sum() + shapes[2::3].sum())
    return bool(len(values) == 3 + 3 * n_sequences + n_tokens_and_blocks + 2 * n_copies + 3 * n_scores)


def _step_faults(step: Step, limits: PlanLimits, vocab_size: int) -> list[str]:
    """Return what is wrong with a step as a whole."""
    faults = []
    if not 1 <= len(step.sequences) <= limits.max_step_sequences:
        faults.append(f"{len(step.sequences)} sequences, expected 1 to {limits.max_step_sequences}")
    if not 1 <= step.n_new_tokens <= limits.max_step_tokens:
        faults.append(f"{step.n_new_tokens} new tokens, expected 1 to {limits.max_step_tokens}")
    if len(step.score_rows) and not _all_within(step.score_rows, 0, step.n_new_tokens):
        faults.append(f"a scored row is outside 0..{step.n_new_tokens - 1}")
    if not _all_within(step.score_tokens, 0, vocab_size):
        faults.append(f"a scored token is outside 0..{vocab_size - 1}")
    if not _all_within(np.asarray(step.block_copies, dtype=np.int64), 1, limits.n_blocks + 1):
        faults.append(f"a copied block is outside 1..{limits.n_blocks}")
    return faults


def _sequence_faults(sequence: StepSequence, limits: PlanLimits, vocab_size: int, max_model_len: int) -> list[str]:
    """Return what is wrong with one sequence."""
    faults, n_tokens = [], len(sequence.token_ids)
    if not 0 <= sequence.n_computed < n_tokens <= max_model_len:
        faults.append(f"has {sequence.n_computed} tokens computed of {n_tokens}, of which {max_model_len} fit")
    if not _all_within(sequence.token_ids, 0, vocab_size):
        faults.append(f"has a token outside 0..{vocab_size - 1}")
    n_blocks, most_blocks = len(sequence.block_ids), -(-max_model_len // limits.block_size)
    if not n_tokens <= n_blocks * limits.block_size or n_blocks > most_blocks:
        faults.append(f"has {n_blocks} blocks of {limits.block_size} for {n_tokens} tokens")
    if not _all_within(np.asarray(sequence.block_ids, dtype=np.int64), 1, limits.n_blocks + 1):
        faults.append(f"has a block outside 1..{limits.n_blocks}")
    return faults


def _all_within(values: np.ndarray, low: int, end: int) -> bool:
    """Whether all values lie in low..end-1; true without values."""
    return bool(((values >= low) & (values < end)).all())
