"""How one adapter is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from transfergrid.config.values import (
    NUMBER,
    AutoOrPositive,
    Dtype,
    Fraction,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
)

UNDECISIVE = frozenset({"report_to", "gradient_checkpointing", "adapters_at_once"})
"""Settings that do not decide an adapter's weights: where numbers are logged, memory, adapters in one pass."""
OF_THE_BASE = frozenset({"dtype", "quantization"})
"""Settings that say how the base is loaded."""


class TrainingConfig(Section):
    """How one adapter is trained."""

    learning_rate: PositiveFloat = 5e-5
    """Highest learning rate of AdamW."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.1
    """Share of all steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0), NUMBER] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    epochs: PositiveInt = 3
    """Upper bound; the epoch with the lowest validation loss is kept."""
    batch_size: PositiveInt = 8
    """Examples per step; halved, with accumulation doubled, when memory runs out."""
    gradient_accumulation: PositiveInt = 1
    """Steps whose gradients are added before the weights move."""
    validation_fraction: Fraction = 0.1
    """Share of the train items held out for choosing the epoch."""
    validation_seed: Seed = 42
    """Seed of that split, whatever the training seed."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after this many epochs without a lower validation loss; null trains all epochs."""
    max_length: dict[str, PositiveInt] = {
        "arc_challenge": 256,
        "global_mmlu": 512,
        "hellaswag": 512,
        "truthfulqa": 128,
    }
    """Longest training example per task, in tokens; other tasks: 512."""
    truncation: Literal["refuse", "left"] = "left"
    """Example too long: refuse the adapter, or cut the prompt on the left and count it; never the answer."""
    supervise_end_token: bool = False
    """Train on the end-of-text token after the answer too."""
    dtype: Dtype = "auto"
    """Number format of the base; ``auto``: bfloat16 (the study's) where native, else float32."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Load the base quantised by bitsandbytes (GPU only)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    adapters_at_once: AutoOrPositive = "auto"
    """Adapters trained in one pass over the base; ``auto``: as memory and measured speed allow, at most 16."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers of transformers' Trainer, for example ``wandb`` or ``mlflow``."""
