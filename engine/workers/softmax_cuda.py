"""The logarithm of the softmax's denominator on CUDA, without a float32 copy of the logits."""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

_COLUMNS = 4096
"""Logits of a row that a program holds at once."""


@triton.jit  # type: ignore[untyped-decorator]
def _row_logsumexp(logits: Any, row_stride: Any, n_columns: Any, result: Any, columns: tl.constexpr) -> None:
    """Keep, per column of a block, the highest logit so far and the sum of exponentials relative to it."""
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, columns)
    highest = tl.full((columns,), float("-inf"), tl.float32)
    total = tl.zeros((columns,), tl.float32)
    for start in range(0, n_columns, columns):
        at = start + offsets
        values = tl.load(logits + row * row_stride + at, mask=at < n_columns, other=float("-inf")).to(tl.float32)
        raised = tl.maximum(highest, values)
        shift = tl.where(raised == float("-inf"), 0.0, raised)  # where no logit has come yet
        total = total * tl.exp(highest - shift) + tl.exp(values - shift)
        highest = raised
    top = tl.max(highest, 0)
    tl.store(result + row, top + tl.log(tl.sum(total * tl.exp(highest - top), 0)))


def row_logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """Return log(sum(exp(row))) of every row in float32; logits of any float type are read once, as they are.

    Args:
        logits: Shape [R, V]; the columns of a row are neighbours in memory.

    Returns:
        Shape [R]; NaN where a logit is NaN.
    """
    n_rows, n_columns = logits.shape
    result = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    if n_rows:
        columns = min(_COLUMNS, triton.next_power_of_2(n_columns))
        _row_logsumexp[(n_rows,)](logits, logits.stride(0), n_columns, result, columns)
    return result


def gather_logprobs(logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of tokens at rows of some logits, float32."""
    return logits[rows, tokens].float() - row_logsumexp(logits)[rows]
