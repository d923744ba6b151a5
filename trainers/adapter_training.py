"""One adapter: attach, train, keep the epoch with the lowest validation loss, hand over the weights."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.trainers.base_model import LoadedBase, attached_adapter
from transfergrid.trainers.events import AdapterStarted, BatchHalved, TrainingEvents
from transfergrid.trainers.jobs import BatchShape, TrainingJob
from transfergrid.trainers.recipe import make_trainer
from transfergrid.trainers.record import TrainedAdapter
from transfergrid.trainers.sft.memory import is_out_of_memory, peak_memory_gib, reset_peak_memory
from transfergrid.trainers.trackers import end_tracker_runs

SaveAdapter = Callable[[Any, TrainedAdapter], None]
"""Called with the peft model, its best weights in place, and the record of the training."""


def train_adapter(
    job: TrainingJob, base: LoadedBase, config: GridConfig, *, scratch: Path, events: TrainingEvents, save: SaveAdapter
) -> TrainedAdapter:
    """Train one adapter on the base; the base is left as it was, after errors too.

    When memory runs out, the adapter starts again with half the batch and twice the accumulation.

    Args:
        job: What to train.
        base: The base model.
        config: Shape and recipe.
        scratch: Folder that TRL may write to.
        events: Told of every step and epoch.
        save: Called before the adapter is removed.

    Raises:
        UserError: If the loss stops being finite, or memory does not suffice for a single example.
    """
    training = config.training
    shape = BatchShape(batch_size=training.batch_size, gradient_accumulation=training.gradient_accumulation)
    while True:
        try:
            return _train_once(job, base, config, shape=shape, scratch=scratch, events=events, save=save)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = shape.halved()
            if smaller is None:
                raise UserError(
                    f"memory ran out at a batch of {shape.batch_size}; set training.gradient_checkpointing, or lower "
                    "training.max_length"
                ) from error
        shape = smaller
        _free_memory(base.device)
        end_tracker_runs()
        events(
            BatchHalved(job=job.name, batch_size=shape.batch_size, gradient_accumulation=shape.gradient_accumulation)
        )


def _train_once(  # noqa: PLR0913 - everything an attempt needs
    job: TrainingJob,
    base: LoadedBase,
    config: GridConfig,
    *,
    shape: BatchShape,
    scratch: Path,
    events: TrainingEvents,
    save: SaveAdapter,
) -> TrainedAdapter:
    """Train with one batch shape."""
    from transfergrid.trainers.sft.callback import BestWeights, ProgressCallback

    start = time.perf_counter()
    reset_peak_memory(base.device)
    with attached_adapter(base, config.lora, job.seed) as model:
        best = BestWeights(model)
        progress = ProgressCallback(job.name, events, best, patience=config.training.early_stopping_patience)
        trainer = make_trainer(model, job, base, config.training, shape=shape, scratch=scratch)
        trainer.add_callback(progress)
        progress.trainer = trainer
        events(_started(job, shape, config.training.epochs))
        train_start = time.perf_counter()
        trainer.train()
        best.restore()
        now = time.perf_counter()
        trained = TrainedAdapter(
            batch=shape,
            n_steps=trainer.state.global_step,
            best_epoch=best.epoch,
            best_validation_loss=best.loss,
            untrained_validation_loss=progress.untrained_loss,
            step_curve=progress.step_curve,
            epoch_curve=progress.epoch_curve,
            n_tokens=trainer.n_tokens_seen,
            train_s=now - train_start,
            wall_s=now - start,
            peak_gib=peak_memory_gib(base.device),
        )
        save(model, trained)
        return trained


def _started(job: TrainingJob, shape: BatchShape, epochs: int) -> AdapterStarted:
    n_tokens = epochs * job.data.n_train_tokens
    return AdapterStarted(job=job.name, epochs=epochs, n_steps=job.n_steps(shape.effective, epochs), n_tokens=n_tokens)


def _free_memory(device: str) -> None:
    """Give freed memory back to the device."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
