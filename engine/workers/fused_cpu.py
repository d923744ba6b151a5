"""Norms and activations of a loaded model with as few passes over memory as the CPU takes them.

vLLM 0.32 composes them from several torch operations there, although its CPU library has them fused.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm

from transfergrid.engine.models.device import has_native_bfloat16


def fuse_elementwise(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Let a model's RMSNorm and SiluAndMul layers call the fused operators; return how many do.

    None does in half precision on a CPU without bfloat16 units: there the operators cut bits off instead of rounding.

    Layers of other classes, such as Gemma's norm, and norms over a part of the width stay as they are.
    """
    if dtype != torch.float32 and not has_native_bfloat16("cpu"):
        return 0
    n_fused = 0
    for module in model.modules():
        layer: Any = module
        if type(module) is SiluAndMul:
            layer._forward_method = silu_and_mul
        elif type(module) is RMSNorm and layer.variance_size_override is None and layer.has_weight:
            layer._forward_method = partial(rms_norm, layer)
        else:
            continue
        n_fused += 1
    return n_fused


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """Return silu(left half) * right half; shape [T, 2 d] to [T, d].

    With AVX-512 torch's vector exponential beats the fused operator's by a factor of three (docs/performance.md).
    """
    gate, up = x.chunk(2, dim=-1)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return torch.nn.functional.silu(gate).mul_(up)
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    torch.ops._C.silu_and_mul(out, x)
    return out


def rms_norm(norm: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
    """Return the weighted norm of ``x``; with a residual, add it first, in place, and return both.

    Args:
        norm: vLLM's RMSNorm: weight and epsilon.
        x: Shape [T, H]; overwritten where a residual is given.
        residual: Shape [T, H]; becomes the sum.
    """
    if residual is None:
        out = torch.empty_like(x)
        torch.ops._C.rms_norm(out, x.contiguous(), norm.weight, norm.variance_epsilon)
        return out
    torch.ops._C.fused_add_rms_norm(x, residual, norm.weight, norm.variance_epsilon)
    return x, residual
