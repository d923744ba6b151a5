"""LoRA layers as one operation: no copies of the layer's input or output, no gradient that is not needed.

peft computes ``W x``, ``B A x``, the scaling and the sum as separate operations, each of which writes an output-sized
tensor and keeps what its gradient needs. Here the adapter's part is added by the GEMM that computes it, and only the
input and ``A x`` (r values a token) are kept.
"""

from __future__ import annotations

from typing import Any

import torch


class FusedLoraLinear(torch.autograd.Function):
    """``y = W x + b + scale * B A x`` with a frozen base; gradients of x, A and B only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, base: Any, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
        """Compute the layer.

        Args:
            ctx: Autograd's context.
            x: Shape [..., in], in the base's dtype.
            base: The frozen linear layer, weight of shape [out, in].
            a: Shape [r, in], in any dtype; used in the base's.
            b: Shape [out, r], likewise.
            scale: alpha / r, or alpha / sqrt(r).

        Returns:
            Shape [..., out].
        """
        rows = x.reshape(-1, x.shape[-1])
        a_used, b_used = a.to(x.dtype), b.to(x.dtype)
        y = torch.nn.functional.linear(rows, base.weight, base.bias)
        inner = rows @ a_used.t()
        y.addmm_(inner, b_used.t(), alpha=scale)
        ctx.save_for_backward(rows, inner, a_used, b_used)
        ctx.base, ctx.scale, ctx.dtypes = base, scale, (a.dtype, b.dtype)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, A and B; x's only where something below it is trained."""
        (grad,) = grads
        rows, inner, a, b = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_inner = (grad_rows @ b).mul_(ctx.scale)
        grad_a = (grad_inner.t() @ rows).to(ctx.dtypes[0])
        grad_b = (grad_rows.t() @ inner).mul_(ctx.scale).to(ctx.dtypes[1])
        if not ctx.needs_input_grad[0]:
            return None, None, grad_a, grad_b, None
        grad_x = (grad_rows @ ctx.base.weight).addmm_(grad_inner, a)
        return grad_x.view(*grad.shape[:-1], -1), None, grad_a, grad_b, None


def fuse_lora_layers(model: Any) -> int:
    """Let a peft model's plain LoRA layers compute as one operation; others keep peft's way.

    Layers with dropout, a quantised base or a variant such as DoRA are others. Nothing has to be undone: the layers
    go when the adapter is detached.

    Args:
        model: A peft model with one adapter, named ``default``.

    Returns:
        Number of fused layers.
    """
    from peft.tuners.lora import Linear

    fused = 0
    for layer in model.modules():
        if type(layer) is Linear and _is_plain(layer):
            layer.forward = _fused_forward(layer)
            fused += 1
    return fused


def _is_plain(layer: Any) -> bool:
    """Whether a peft layer is W x + scale * B A x over an ordinary linear layer."""
    return (
        type(layer.base_layer) is torch.nn.Linear
        and layer.active_adapters == ["default"]
        and isinstance(layer.lora_dropout["default"], torch.nn.Identity)
        and not layer.lora_variant
        and layer.lora_B["default"].bias is None
    )


def _fused_forward(layer: Any) -> Any:
    """Return a forward method for one layer, its parts looked up once."""
    base, scale = layer.base_layer, float(layer.scaling["default"])
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> Any:
        return FusedLoraLinear.apply(x, base, a, b, scale)  # type: ignore[no-untyped-call]

    return forward
