"""Fused norms and activations equal the plain formulas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from transfergrid.engine.workers.fused_cpu import fuse_elementwise, rms_norm, silu_and_mul

pytestmark = pytest.mark.engine
EPSILON = 1e-5


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON) * weight.double()


DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])


@DTYPES
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_activation_is_silu_of_one_half_times_the_other(
    dtype: torch.dtype, tolerance: float, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    x = random(37, 64, dtype=dtype)
    expected = torch.nn.functional.silu(x[:, :32].double()) * x[:, 32:].double()
    assert torch.allclose(silu_and_mul(x).double(), expected, atol=tolerance, rtol=tolerance)


@DTYPES
def test_norm_with_and_without_residual(dtype: torch.dtype, tolerance: float) -> None:
    x, residual, weight = (
        random(37, 64, dtype=dtype, seed=1),
        random(37, 64, dtype=dtype, seed=2),
        random(64, dtype=dtype),
    )
    norm = SimpleNamespace(weight=weight, variance_epsilon=EPSILON)
    assert torch.allclose(rms_norm(norm, x).double(), plain_norm(x, weight), atol=tolerance, rtol=tolerance)
    total = (x + residual).clone()
    out, kept = rms_norm(norm, x.clone(), residual.clone())
    assert torch.allclose(kept, total, rtol=tolerance)
    assert torch.allclose(out.double(), plain_norm(total, weight), atol=tolerance, rtol=tolerance)


def test_layers_of_other_classes_stay_as_they_are() -> None:
    assert fuse_elementwise(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU()), torch.float32) == 0


@pytest.mark.parametrize(("native", "n_fused"), [(True, 1), (False, 0)])
def test_half_precision_is_fused_only_where_the_cpu_has_it(
    native: bool, n_fused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.activation import SiluAndMul

    monkeypatch.setattr("transfergrid.engine.workers.fused_cpu.has_native_bfloat16", lambda device: native)
    with set_current_vllm_config(VllmConfig()):
        model = torch.nn.Sequential(SiluAndMul())
    assert fuse_elementwise(model, torch.bfloat16) == n_fused
    assert fuse_elementwise(model, torch.float32) == 1
