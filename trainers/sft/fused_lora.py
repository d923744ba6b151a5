"""LoRA layers as one operation: no copies of the layer's input or output, no gradient that is not needed.

peft computes ``W x``, ``B A x``, the scaling and the sum as separate operations, each of which writes an output-sized
tensor and keeps what its gradient needs. Here an adapter's part is added by the GEMM that computes it, and only the
input and ``A x`` (r values a token) are kept. The rows of one input may belong to several adapters: the base's products
take all rows at once, an adapter's its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class LoraWeights(NamedTuple):
    """A and B of one layer and one adapter."""

    a: torch.nn.Parameter
    """Shape [r, in], in any dtype; used in the base's."""
    b: torch.nn.Parameter
    """Shape [out, r], likewise."""
    scale: float
    """alpha / r, or alpha / sqrt(r)."""

    def copies(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A and B in a number format, as they are now.

        Nothing is kept for the next call: a fused optimizer changes weights without changing their version counter.
        """
        return self.a.detach().to(dtype), self.b.detach().to(dtype)


class LoraRows(NamedTuple):
    """The rows of a layer's input that one adapter is for."""

    start: int
    end: int
    weights: LoraWeights


class FusedLoraLinear(torch.autograd.Function):
    """``y = W x + b + scale * B A x`` with a frozen base, A and B by row; gradients of x, A and B only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, base: Any, parts: Sequence[LoraRows], *_: torch.Tensor) -> torch.Tensor:
        """Compute the layer.

        Args:
            ctx: Autograd's context.
            x: Shape [N, in], in the base's dtype.
            base: The frozen linear layer, weight of shape [out, in].
            parts: Rows of every adapter.
            *_: A and B of every part, for autograd.

        Returns:
            Shape [N, out].
        """
        y = torch.nn.functional.linear(x, base.weight, base.bias)
        saved = [x]
        for start, end, weights in parts:
            a, b = weights.copies(x.dtype)
            inner = x[start:end] @ a.t()
            y[start:end].addmm_(inner, b.t(), alpha=weights.scale)
            saved += [inner, a, b]
        ctx.save_for_backward(*saved)
        ctx.base, ctx.parts = base, parts
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, A and B; x's only where something below it is trained."""
        (grad,) = grads
        x, *saved = ctx.saved_tensors
        grad_x = grad @ ctx.base.weight if ctx.needs_input_grad[0] else None
        found: list[torch.Tensor] = []
        for index, (start, end, weights) in enumerate(ctx.parts):
            inner, a, b = saved[3 * index : 3 * index + 3]
            own = grad[start:end]
            grad_inner = (own @ b).mul_(weights.scale)
            if grad_x is not None:
                grad_x[start:end].addmm_(grad_inner, a)
            found.append((grad_inner.t() @ x[start:end]).to(weights.a.dtype))
            found.append((own.t() @ inner).mul_(weights.scale).to(weights.b.dtype))
        return grad_x, None, None, *found


def lora_linear(x: torch.Tensor, base: Any, parts: Sequence[LoraRows]) -> torch.Tensor:
    """Return a layer's output, shape [..., out], for an input of shape [..., in] whose rows are counted as if flat."""
    flat = [side for part in parts for side in (part.weights.a, part.weights.b)]
    y: torch.Tensor = FusedLoraLinear.apply(x.reshape(-1, x.shape[-1]), base, parts, *flat)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


def fuse_lora_layers(model: Any) -> dict[str, LoraWeights]:
    """Let a peft model's plain LoRA layers compute as one operation; others keep peft's way.

    Layers with dropout, a quantised base or a variant such as DoRA are others. Nothing has to be undone: the layers
    go when the adapter is detached.

    Returns:
        The weights of the fused layers, by the layer's name in the base model.
    """
    from peft.tuners.lora import Linear

    fused = {}
    for name, layer in model.get_base_model().named_modules():
        if type(layer) is Linear and _is_plain(layer):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            fused[name] = LoraWeights(a, b, float(layer.scaling["default"]))
            layer.forward = _fused_forward(layer.base_layer, fused[name])
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


def _fused_forward(base: Any, weights: LoraWeights) -> Any:
    """Return a forward method for one layer with one adapter."""

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> Any:
        return lora_linear(x, base, [LoraRows(0, x.numel() // x.shape[-1], weights)])

    return forward
