"""Shape of the adapters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from transfergrid.config.values import MAX_LORA_RANK, NUMBER, PositiveInt, Section

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers that get LoRA in the study."""


class LoraConfig(Section):
    """Shape of the adapters."""

    r: Annotated[int, Field(ge=1, le=MAX_LORA_RANK), NUMBER] = 32
    """LoRA rank; vLLM serves at most 512."""
    alpha: PositiveInt = 64
    """Numerator of the scale: a layer adds (alpha / r) B A x."""
    dropout: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.0
    """Dropout on the input of A while training."""
    target_modules: tuple[str, ...] = Field(default=TARGET_MODULES, min_length=1)
    """Linear layers that get LoRA."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r."""
