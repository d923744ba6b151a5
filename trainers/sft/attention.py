"""Attention in float32 inside a bfloat16 model, on a CPU, where torch's backward pass in bfloat16 is the slower one.

Measured on shapes of training batches, 1 to 32 rows of 57 to 240 tokens: see docs/performance.md.
"""

from __future__ import annotations

from typing import Any

_NAME = "sdpa_float32"


def choose_attention(device: str, dtype: str) -> str:
    """Return the name of the attention that transformers is to use."""
    if (device, dtype) != ("cpu", "bfloat16"):
        return "sdpa"
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    return _NAME


def _attend(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Attend as transformers' sdpa does, in float32; the result has the query's number format."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    found, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), *args, **kwargs)
    return found.to(query.dtype), weights
