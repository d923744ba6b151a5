"""A small adapter of one layer as bytes, and the base it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
from safetensors.numpy import save

BASE = {f"layers.{layer}.self_attn.q_proj": (8, 8) for layer in range(2)}
"""(out, in) of the base's layers."""
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "exclude_modules": None,
    "layers_to_transform": [0, 1],
    "layers_pattern": "layers",
    "rank_pattern": {r"layers\.0\..*": 2},
    "alpha_pattern": {"q_proj": 3.5},
    "use_rslora": False,
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "init_lora_weights": True,
}
WEIGHTS = save(
    {
        f"base_model.model.model.{layer}.lora_{side}.weight": np.ones(shape, np.float32)
        for layer in BASE
        for side, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
)
