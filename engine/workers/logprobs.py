"""Log-probabilities of given tokens from hidden states, with few rows of logits alive at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch

CPU_CHUNK_BYTES = 32 * 2**20
"""Logits of one chunk on the CPU: small enough for the last-level cache, large enough for a full-speed GEMM."""

CPU_PIECE_BYTES = 8 * 2**20
"""Float32 log-probabilities that exist at once on the CPU: memory that is used again, not mapped anew every time."""

DEVICE_CHUNK_BYTES = 1 * 2**30
"""Logits of one chunk on an accelerator, float32."""


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
    rows: torch.Tensor,
    tokens: torch.Tensor,
    *,
    compute_logits: Callable[[torch.Tensor], torch.Tensor | None],
    vocab_size: int,
) -> torch.Tensor | None:
    """Return natural-log probabilities of tokens at rows; every row goes through the vocabulary projection once.

    Args:
        hidden: Shape [N, H]: hidden states after the last norm.
        rows: Shape [S], int64, ascending, repeats allowed: rows of ``hidden``.
        tokens: Shape [S], int64: token scored at each row.
        compute_logits: Maps [R, H] to [R, V]; None on tensor-parallel ranks that do not hold the result.
        vocab_size: V, to size the chunks.

    Returns:
        Shape [S], float32, or None where ``compute_logits`` gives None. Softmax and its logarithm are float32.
    """
    unique_rows, inverse = torch.unique_consecutive(rows, return_inverse=True)
    size = chunk_rows(vocab_size, hidden.device)
    piece_size = piece_rows(vocab_size, hidden.device)
    starts = torch.arange(0, len(unique_rows), piece_size, device=inverse.device)
    bounds = [*torch.searchsorted(inverse, starts).tolist(), len(rows)]
    result = torch.empty(len(rows), dtype=torch.float32, device=hidden.device)
    for chunk_start in range(0, len(unique_rows), size):
        logits = compute_logits(hidden[unique_rows[chunk_start : chunk_start + size]])
        if logits is None:
            return None
        for number, piece in enumerate(torch.split(logits, piece_size), start=chunk_start // piece_size):
            scored = slice(bounds[number], bounds[number + 1])
            logprobs = torch.log_softmax(piece, dim=-1, dtype=torch.float32)
            result[scored] = logprobs[inverse[scored] - number * piece_size, tokens[scored]]
    return result
