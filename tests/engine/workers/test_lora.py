"""LoRA on the CPU run by run, against a plain loop over tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.engine.lora_mixes import MIXES
from transfergrid.engine.workers.lora import CpuLora, CudaLora, TokenRun, token_runs

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


def test_the_cuda_wrapper_does_the_same_for_a_known_slot_whatever_vllms_operators_take() -> None:
    x, base = torch.randn(6, 16), torch.randn(6, 24)
    a, b = torch.randn(4, 1, 4, 16), torch.randn(4, 1, 24, 4)
    lora = object.__new__(CudaLora)  # its own __init__ needs Triton on a GPU
    lora._views, lora._joined = {}, {}
    lora.use_slot(2)
    y = base.clone()
    lora.add_lora_linear(y, x, (a,), (b,), 1.0, (24,))
    assert torch.allclose(y, base + x @ a[2, 0].t() @ b[2, 0].t(), atol=1e-4)
    lora.use_slot(None)
    y = base.clone()
    lora.add_lora_linear(y, x, (a,), (b,), 1.0, (24,))
    assert torch.equal(y, base)
    lora.use_slot(2)
    alone = torch.full((6, 24), float("nan"))
    lora.add_lora_linear(alone, x, (a,), (b,), 1.0, (24,), add_inputs=False)
    assert torch.allclose(alone, x @ a[2, 0].t() @ b[2, 0].t(), atol=1e-4)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, None), (torch.float32, (TokenRun(0, 0, 2),))])
def test_on_cuda_vllms_scheduler_gets_triton_where_it_takes_the_dtype(dtype: torch.dtype, expected: object) -> None:
    lora = object.__new__(CudaLora)
    lora.lora_config = SimpleNamespace(lora_dtype=dtype)
    assert lora._scheduled_runs(SimpleNamespace(index_mapping=(7, 7)), SLOTS) == expected


def test_joined_inputs_give_what_each_slice_alone_gives_and_follow_their_slot() -> None:
    generator = torch.Generator().manual_seed(1)
    layer = SimpleNamespace(
        lora_a_stacked=tuple(torch.randn(2, 1, 4, 16, generator=generator) for _ in WIDTHS),
        lora_b_stacked=tuple(torch.randn(2, 1, width, 4, generator=generator) for width in WIDTHS),
    )
    apart, joined = CpuLora(9, 9, "cpu"), CpuLora(9, 9, "cpu")
    kept, x = layer.lora_a_stacked, torch.randn(9, 16, generator=generator)
    joined.join_inputs(layer)
    for slot, change in ((0, 0.0), (1, 0.0), (1, 3.0)):
        for weights in (kept, layer.lora_a_stacked):
            weights[1][slot] += change  # another adapter is put into the slot
        left, right = torch.zeros(9, sum(WIDTHS)), torch.zeros(9, sum(WIDTHS))
        for lora, a, y in ((apart, kept, left), (joined, layer.lora_a_stacked, right)):
            lora.use_slot(slot)
            lora.add_lora_linear(y, x, a, layer.lora_b_stacked, 1.0, WIDTHS)
        assert torch.allclose(left, right, atol=1e-4)
        assert left.any()


def test_zero_weights_change_no_bit() -> None:
    x, base = torch.randn(10, 16), torch.randn(10, 8)
    lora = CpuLora(10, 10, "cpu")
    lora.runs = (TokenRun(0, 0, 10),)
    y = base.clone()
    lora.add_lora_linear(y, x, (torch.randn(1, 1, 4, 16),), (torch.zeros(1, 1, 8, 4),), 1.0, (8,))
    assert torch.equal(y, base)
