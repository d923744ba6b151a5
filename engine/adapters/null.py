"""Made-up adapters: the null adapter, whose B is zero and which must score exactly as the base, and random ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from transfergrid.config.training import TARGET_MODULES
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.models.decoder import peft_names
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.store.files import write_json

NULL_RANK = 8
"""Rank of the adapter with B = 0."""
_RANDOM_B = 0.02  # standard deviation: changes log-likelihoods by nats


def make_null_adapter(
    model_folder: Path, folder: Path, *, rank: int = NULL_RANK, target_modules: Iterable[str] = TARGET_MODULES
) -> Path:
    """Write an adapter with random A and B = 0, which must score exactly as the base; return its folder."""
    from safetensors.numpy import save_file

    targets, names = sorted(target_modules), peft_names(model_folder)
    generator = np.random.default_rng(0)
    weights = {}
    for module, (n_out, n_in) in read_linear_shapes(model_folder).items():
        if module.rpartition(".")[2] in targets:
            key = f"{names.prefix}{module}"
            weights[f"{key}.lora_A.weight"] = generator.standard_normal((rank, n_in), dtype=np.float32)
            weights[f"{key}.lora_B.weight"] = np.zeros((n_out, rank), dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS_FILE)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    layers = {"target_modules": targets, "exclude_modules": names.excluded}
    write_json(folder / CONFIG_FILE, {**config, **layers, "base_model_name_or_path": str(model_folder)})
    return folder


def make_random_adapter(model_folder: Path, folder: Path, *, rank: int, seed: int) -> Path:
    """Write an adapter with random A and small random B, which changes log-likelihoods by nats; return its folder."""
    from safetensors.numpy import load_file, save_file

    file = make_null_adapter(model_folder, folder, rank=rank) / WEIGHTS_FILE
    generator = np.random.default_rng(seed)
    weights = load_file(file)
    for key, value in weights.items():
        scale = _RANDOM_B if "lora_B" in key else value.shape[1] ** -0.5
        weights[key] = scale * generator.standard_normal(value.shape, dtype=np.float32)
    save_file(weights, file)
    return folder
