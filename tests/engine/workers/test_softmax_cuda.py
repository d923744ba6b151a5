"""The CUDA kernel, run by Triton's interpreter on the CPU, equals torch's formula."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
import torch
from transfergrid.engine.workers import softmax_cuda

softmax_cuda._COLUMNS = 64
generator = torch.Generator().manual_seed(0)
for shape in ((5, 300), (3, 64), (2, 17), (0, 9)):
    for dtype in (torch.float32, torch.float16):
        wide = (30 * torch.randn(shape[0], shape[1] + 8, generator=generator)).to(dtype)
        logits = wide[:, : shape[1]]  # rows that are not neighbours
        difference = softmax_cuda.row_logsumexp(logits) - logits.double().logsumexp(-1)
        assert difference.abs().max() < 1e-4 if len(logits) else difference.shape == (0,), (shape, dtype, difference)
masked = torch.full((2, 200), float("-inf"))
masked[0, 150] = 3.0
masked[1, 7] = float("nan")
result = softmax_cuda.row_logsumexp(masked)
assert result[0] == 3.0 and result[1].isnan(), result
logits, rows, tokens = torch.randn(4, 300, generator=generator), torch.tensor([0, 0, 3]), torch.tensor([9, 299, 0])
gathered = softmax_cuda.gather_logprobs(logits, rows, tokens)
assert torch.allclose(gathered, logits.log_softmax(-1)[rows, tokens], atol=1e-5), gathered
print("equal")
"""


def test_the_kernel_equals_torchs_logsumexp() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]
