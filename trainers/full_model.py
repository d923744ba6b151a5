"""Full fine-tuning: all weights of a copy of the base are trained in float32, and saved in the base's number format."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.adapters.full import FULL
from transfergrid.store.files import write_json
from transfergrid.trainers.base_model import NOT_THE_DECODER, LoadedBase, attached_adapter


@contextmanager
def trained_model(base: LoadedBase, config: GridConfig, seed: int) -> Iterator[Any]:
    """Give out what is trained: a fresh adapter on the base, or a copy of the base; the base is left as it was.

    Yields:
        The peft model, or a model whose weights are trained.
    """
    if config.training.method == "lora":
        with attached_adapter(base, config.lora, seed) as model:
            yield model
        return
    from transformers import set_seed

    set_seed(seed)
    model = copy.deepcopy(base.model).float()
    for name, weight in model.named_parameters():
        weight.requires_grad_(NOT_THE_DECODER not in name)
    yield model


def write_full(model: Any, folder: Path, dtype: str) -> None:
    """Write all weights of a trained model in a number format, and the configuration that says what they are."""
    import torch

    scratch = folder / "model"
    model.to(getattr(torch, dtype)).save_pretrained(str(scratch), max_shard_size="10TB")  # one file
    (scratch / "model.safetensors").replace(folder / WEIGHTS_FILE)
    shutil.rmtree(scratch)
    write_json(folder / CONFIG_FILE, {"peft_type": FULL, "task_type": "CAUSAL_LM", "dtype": dtype})
