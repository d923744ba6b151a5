"""Log-probabilities of given tokens from hidden states, with few rows of logits alive at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy.typing as npt
import torch

CPU_CHUNK_BYTES = 32 * 2**20
"""Logits of one chunk on the CPU: small enough for the last-level cache, large enough for a full-speed GEMM."""

CPU_PIECE_BYTES = 8 * 2**20
"""Float32 log-probabilities that exist at once on the CPU: memory that is used again, not mapped anew every time."""

DEVICE_CHUNK_BYTES = 512 * 2**20
"""Logits of one chunk on an accelerator, float32; ``scorers.sizes.SOFTMAX_BYTES`` leaves room for them, twice."""


class ScoredRows(NamedTuple):
    """Which tokens are scored at which rows: R distinct rows, S scores."""

    rows: torch.Tensor
    """Shape [R], int64: rows of the hidden states."""
    owners: torch.Tensor
    """Shape [S], int64, ascending: position in ``rows`` of the row of each score."""
    tokens: torch.Tensor
    """Shape [S], int64."""
    starts: npt.NDArray[Any]
    """Shape [R + 1], on the host: where the scores of each row begin."""


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Return how many rows of float32 logits one chunk holds; 16 or more, a multiple of ``piece_rows``."""
    budget = CPU_CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES
    piece = piece_rows(vocab_size, device)
    return max(budget // (4 * vocab_size) // piece, 1) * piece


def piece_rows(vocab_size: int, device: torch.device) -> int:
    """Return over how many rows the softmax goes at once; 16 or more."""
    budget = CPU_PIECE_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES
    return max(16, budget // (4 * vocab_size))


def token_logprobs(
    hidden: torch.Tensor,
    scored: ScoredRows,
    *,
    compute_logits: Callable[[torch.Tensor], torch.Tensor | None],
    vocab_size: int,
    greedy: bool = False,
) -> torch.Tensor | None:
    """Return natural-log probabilities of tokens at rows; every row goes through the vocabulary projection once.

    Nothing waits for the device: the sizes of all pieces are known on the host.

    Args:
        hidden: Shape [N, H]: hidden states after the last norm.
        scored: What is scored where.
        compute_logits: Maps [R, H] to [R, V]; None on tensor-parallel ranks that do not hold the result.
        vocab_size: V, to size the chunks.
        greedy: Also say of every token whether it is the row's most likely one.

    Returns:
        Shape [S], float32, or None where ``compute_logits`` gives None. Softmax and its logarithm are float32. With
        ``greedy``, shape [2 S]: then 1 for every token that greedy decoding would choose, 0 for the others.
    """
    size = chunk_rows(vocab_size, hidden.device)
    piece_size = piece_rows(vocab_size, hidden.device)
    result = torch.empty((1 + greedy, len(scored.tokens)), dtype=torch.float32, device=hidden.device)
    for chunk_start in range(0, len(scored.rows), size):
        logits = compute_logits(hidden[scored.rows[chunk_start : chunk_start + size]])
        if logits is None:
            return None
        for start, piece in zip(
            range(chunk_start, chunk_start + size, piece_size), torch.split(logits, piece_size), strict=False
        ):
            here = slice(*scored.starts[[start, start + len(piece)]].tolist())
            owners, tokens = scored.owners[here] - start, scored.tokens[here]
            result[0, here] = _gather_logprobs(piece, owners, tokens)
            if greedy:
                result[1, here] = (piece.argmax(dim=-1)[owners] == tokens).float()
    return result.flatten()


def _gather_logprobs(logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of tokens at rows of some logits, float32."""
    if logits.is_cuda:
        from transfergrid.engine.workers.softmax_cuda import gather_logprobs

        return gather_logprobs(logits, rows, tokens)
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)[rows, tokens]
