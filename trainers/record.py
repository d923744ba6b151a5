"""``training.json``: what an adapter was trained with and how that went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from transfergrid.engine.interfaces import AdapterError
from transfergrid.grid import Source
from transfergrid.store.files import hash_files
from transfergrid.store.json_text import JsonError, read_json
from transfergrid.store.provenance import git_state, package_versions
from transfergrid.trainers.base_model import LoadedBase
from transfergrid.trainers.jobs import AdapterJob, BatchShape, TrainingJob


@dataclass(slots=True, kw_only=True)
class TrainedAdapter:
    """What is known of an adapter after its training."""

    batch: BatchShape
    n_steps: int
    """Optimizer steps that were made."""
    best_epoch: int = 0
    best_validation_loss: float = float("inf")
    untrained_validation_loss: float = float("inf")
    """That of the base: before the first step an adapter changes nothing."""
    step_curve: list[dict[str, float]] = field(default_factory=list)
    """Per optimizer step: step, epoch, loss, learning_rate, grad_norm."""
    epoch_curve: list[dict[str, float]] = field(default_factory=list)
    """Per epoch: epoch, step, validation_loss."""
    n_tokens: int = 0
    """Tokens trained on, without padding."""
    train_s: float = 0.0
    """Wall seconds of training and validation."""
    wall_s: float = 0.0
    """Wall seconds from attaching the adapter on."""
    peak_gib: float = 0.0
    """Of the process or the device, whatever else was trained in the same pass."""
    adapters_at_once: int = 1
    """Most adapters that were trained in one pass while this one was."""


_FOUND = (
    *("best_epoch", "best_validation_loss", "untrained_validation_loss"),
    *("n_steps", "n_tokens", "train_s", "peak_gib", "wall_s"),
)
"""What a record takes of ``TrainedAdapter`` as it is."""


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a finished adapter; None where there is no folder.

    Raises:
        AdapterError: If the folder is not as this project wrote it.
    """
    if not folder.exists():
        return None
    try:
        record = read_json(folder / RECORD_FILE, allow_nan=True)
        content_hash = hash_files([folder / CONFIG_FILE, folder / WEIGHTS_FILE])
    except (OSError, JsonError) as error:
        reason = error.reason if isinstance(error, JsonError) else error
        raise AdapterError(f"adapter folder {str(folder)!r} is not complete ({reason}); delete it") from error
    if not isinstance(record, dict) or not isinstance(record.get("key"), dict):
        raise AdapterError(
            f"adapter folder {str(folder)!r} has a {RECORD_FILE} that 'grid train-adapters' did not write; delete the "
            "folder"
        )
    if record.get("content_hash") != content_hash:
        raise AdapterError(f"adapter in {str(folder)!r} was changed after its training; delete the folder")
    return record


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided an adapter's weights; early records keep the number format only beside it."""
    key: dict[str, Any] = record["key"]
    match key, record:
        case {"training": {"dtype": "auto"} as training}, {"resolved": {"dtype": dtype}}:
            return {**key, "training": {**training, "dtype": dtype}}
    return key


def _described_source(source: Source) -> dict[str, Any]:
    """Return how a record names what its adapter is of."""
    if source.cell is not None:
        return {"cell": source.name}
    variant = {"variant": source.variant} if source.variant else {}
    return {"source": source.name, "kind": source.kind, **variant, "cells": [cell.name for cell in source.cells]}


def make_record(job: AdapterJob, key: Mapping[str, Any], started: datetime, **found: Any) -> dict[str, Any]:
    """Return what ``training.json`` says of any adapter: what it is, what came of it, and from where."""
    return {
        "model": job.model.config.name,
        "seed": job.seed,
        **_described_source(job.source),
        "key": key,
        "base": {"path": job.model.config.path, "revision": job.model.revision},
        **found,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
        "git": git_state(),
    }


def training_record(
    job: TrainingJob, base: LoadedBase, config: GridConfig, trained: TrainedAdapter, *, started: datetime
) -> dict[str, Any]:
    """Return what ``training.json`` says of a trained adapter."""
    key, data = job.key_parts(config), job.data
    found = {name: getattr(trained, name) for name in _FOUND}
    return make_record(
        job,
        key,
        started,
        config=config.model_dump(mode="json", include={"lora", "training", "prompts", "data"}),
        resolved={
            "dtype": base.dtype,
            "device": base.device,
            **asdict(trained.batch),
            "adapters_at_once": trained.adapters_at_once,
            "max_length": key["training"]["max_length"],
            "model_folder": str(job.model.folder),
        },
        data={
            "hash": data.data_hash,
            "n_train": len(data.train),
            "n_validation": len(data.validation),
            "n_truncated_items": data.n_truncated_items,
            "n_truncated_tokens": data.n_truncated_tokens,
        },
        **found,
        tokens_per_s=trained.n_tokens / trained.train_s,
        loss_curve={"steps": trained.step_curve, "epochs": trained.epoch_curve},
    )
