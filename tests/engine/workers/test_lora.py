"""LoRA on the CPU run by run, against a plain loop over tokens."""

from __future__ import annotations

import pytest
import torch

from tests.engine.lora_mixes import MIXES
from transfergrid.engine.workers.lora import CpuLora, TokenRun, token_runs

pytestmark = pytest.mark.engine
SLOTS = [7, None, 3, 9]
WIDTHS = (24, 8, 8)


def test_runs_join_neighbours_and_leave_the_base_out() -> None:
    assert token_runs((7, 7, 0, 3, 3, 3, 7), SLOTS) == (TokenRun(0, 0, 2), TokenRun(2, 3, 6), TokenRun(0, 6, 7))
    assert token_runs((0, 0), SLOTS) == ()
    assert token_runs((), SLOTS) == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mix", MIXES)
def test_a_batch_of_adapters_equals_each_token_alone(mix: str, dtype: torch.dtype) -> None:
    adapter_ids = MIXES[mix]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x, base = random(len(adapter_ids), 16), random(len(adapter_ids), sum(WIDTHS))
    a = tuple(random(len(SLOTS), 1, 4, 16) for _ in WIDTHS)
    b = tuple(random(len(SLOTS), 1, width, 4) for width in WIDTHS)
    lora = CpuLora(len(adapter_ids), len(adapter_ids), "cpu")
    lora.runs = token_runs(adapter_ids, SLOTS)
    y = base.clone()
    lora.add_lora_linear(y, x, a, b, 0.5, WIDTHS)
    for token, adapter_id in enumerate(adapter_ids):
        expected = base[token].double()
        if adapter_id:
            slot = SLOTS.index(adapter_id)
            update = [a_i[slot, 0].double() @ x[token].double() for a_i in a]
            expected = expected + 0.5 * torch.cat([b_i[slot, 0].double() @ u for b_i, u in zip(b, update, strict=True)])
        else:
            assert torch.equal(y[token], base[token])
        tolerance = 1e-5 if dtype == torch.float32 else 0.3
        assert (y[token].double() - expected).abs().max() < tolerance


def test_zero_weights_change_no_bit() -> None:
    x, base = torch.randn(10, 16), torch.randn(10, 8)
    lora = CpuLora(10, 10, "cpu")
    lora.runs = (TokenRun(0, 0, 10),)
    y = base.clone()
    lora.add_lora_linear(y, x, (torch.randn(1, 1, 4, 16),), (torch.zeros(1, 1, 8, 4),), 1.0, (8,))
    assert torch.equal(y, base)
