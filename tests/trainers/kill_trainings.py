"""Trainings that are killed at random moments: ``python -m tests.trainers.kill_trainings JOB``; see ``tests.kills``.

JOB is JSON: model, whole (an empty folder), n_kills. Only the loop of training steps is a stand-in: the base, peft's
adapter, its saving and the sweep are the real ones. The base is loaded once, before the first start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch

from tests.kills import kill_rounds
from tests.trainers.small_grid import make_config
from tests.trainers.small_grid import sweep as train_all
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.trainers import record, train_one
from transfergrid.trainers.adapter_training import SaveAdapter
from transfergrid.trainers.base_model import LoadedBase, attached_adapter, load_base
from transfergrid.trainers.jobs import BatchShape, TrainingJob
from transfergrid.trainers.record import TrainedAdapter

N_ADAPTERS = 14
SOURCES = {
    "both": {"train_on": ["arc_challenge-en", "hellaswag-es"]},
    "merged": {"merge_of": ["both", "arc_challenge-fr"], "method": "dare_ties"},
}


def kill_config(model: Path) -> GridConfig:
    """Return a grid of a dozen cells' adapters, a mixture and a merge."""
    return make_config(
        model,
        tasks=("arc_challenge", "global_mmlu", "hellaswag"),
        languages=("en", "es", "fr", "de"),
        epochs=1,
        sources=SOURCES,
    )


def train_quickly(
    job: TrainingJob, base: LoadedBase, config: GridConfig, *, scratch: Path, save: SaveAdapter, **_: Any
) -> TrainedAdapter:
    """Give an adapter weights that its examples decide, and save it."""
    trained = TrainedAdapter(
        batch=BatchShape(batch_size=4, gradient_accumulation=1), n_steps=1, n_tokens=1, train_s=1.0
    )
    generator = torch.Generator().manual_seed(int(job.data.data_hash[:12], 16))
    with attached_adapter(base, config.lora, job.seed) as model, torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_" in name:
                weights.normal_(generator=generator)
        (scratch / "checkpoint").write_bytes(bytes(1000))
        save(model, trained)
    return trained


def main(model: str, whole: str, n_kills: int) -> None:
    """Train once in peace, then kill trainings in fresh run folders; print the kills as JSON."""
    config = kill_config(Path(model))
    base = load_base(Path(model), config.training)
    train_one.load_base = lambda *_: base  # type: ignore[attr-defined]
    train_one.train_adapter = train_quickly  # type: ignore[attr-defined]
    record.git_state = lambda: None  # type: ignore[attr-defined]  # asking git takes longer than all the rest
    train_all(config, RunFolder(Path(whole) / "warm-up"))
    started = time.monotonic()
    train_all(config, RunFolder(Path(whole)))
    wall_s = time.monotonic() - started
    rounds = kill_rounds(
        (Path(whole).parent / f"killed-{number}" for number in count()),
        lambda run: os._exit(len(train_all(config, RunFolder(run)).failed)),
        "adapters/**/training.json",
        n_kills=n_kills,
        n_whole=N_ADAPTERS,
        wall_s=wall_s,
    )
    print(json.dumps(rounds))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
