"""A small configuration and its jobs, for tests that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config.selection import Narrowing, Selection, select
from transfergrid.config.settings import GridConfig
from transfergrid.grid import TASKS, Cell
from transfergrid.store.files import hash_files
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.adapter_training import train_adapter
from transfergrid.trainers.base_model import LoadedBase
from transfergrid.trainers.events import ignore_events
from transfergrid.trainers.jobs import TrainingJob, prepare_jobs
from transfergrid.trainers.record import TrainedAdapter
from transfergrid.trainers.sweep import SweepSummary, train_adapters

ENGLISH, SPANISH = Cell("arc_challenge", "en"), Cell("arc_challenge", "es")
"""The cells of the small grid."""
LENGTHS = dict.fromkeys(TASKS, 2048)


def make_config(model: Path, *, tasks: tuple[str, ...] = ("arc_challenge",), **changes: Any) -> GridConfig:
    """Two languages, one seed, six items a cell, rank 4; ``changes`` are sections or settings of training."""
    sections = {
        name: changes.pop(name)
        for name in ("data", "languages", "lora", "prompts", "seeds", "sources", "variants")
        if name in changes
    }
    training = {
        "learning_rate": 2e-3,
        "batch_size": 4,
        "epochs": 2,
        "max_length": LENGTHS,
        "dtype": "float32",
        "adapters_at_once": 1,
    }
    return GridConfig(
        **{
            "models": [{"path": str(model), "name": "tiny"}],
            "tasks": tasks,
            "languages": ("en", "es"),
            "seeds": (17,),
            "data": {"max_train_items": 6, "max_test_items": 2},
            "lora": {"r": 4, "alpha": 8},
            "training": training | changes,
            **sections,
        }
    )


def everything(config: GridConfig) -> Selection:
    """Select the whole grid."""
    return select(config, Narrowing())


def sweep(config: GridConfig, run: RunFolder, events: Any = ignore_events) -> SweepSummary:
    """Train the whole grid in this process."""
    return train_adapters(config, run, everything(config), events=events)


def adapter(run: RunFolder, cell: Cell = ENGLISH) -> Path:
    """Return the folder of an adapter of the small grid."""
    return run.adapter("tiny", 17, cell)


def weights_hash(folder: Path) -> str:
    """Return a hash of an adapter's weights and configuration."""
    return hash_files([folder / "adapter_model.safetensors", folder / "adapter_config.json"])


def make_jobs(config: GridConfig, root: Path) -> list[TrainingJob]:
    """Materialise the data and return all jobs."""
    run = RunFolder(root)
    ensure_data(config, run.data)
    return prepare_jobs(config, run, everything(config))


def train_weights(
    job: TrainingJob, base: LoadedBase, config: GridConfig, scratch: Path, events: Any = ignore_events
) -> tuple[TrainedAdapter, dict[str, Any]]:
    """Train one adapter and return its record and its weights."""
    weights: dict[str, Any] = {}

    def keep(model: Any, _: TrainedAdapter) -> None:
        weights.update({name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name})

    trained = train_adapter(job, base, config, scratch=scratch, events=events, save=keep)
    return trained, weights
