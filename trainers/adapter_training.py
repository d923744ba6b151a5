"""One adapter: attach, train, keep the epoch with the lowest validation loss, hand over the weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.trainers.base_model import LoadedBase
from transfergrid.trainers.events import AdapterStarted, BatchHalved, TrainingEvents
from transfergrid.trainers.full_model import trained_model
from transfergrid.trainers.jobs import BatchShape, TrainingJob
from transfergrid.trainers.recipe import make_trainer
from transfergrid.trainers.record import TrainedAdapter
from transfergrid.trainers.sft.memory import free_memory, is_out_of_memory, peak_memory_gib, reset_peak_memory
from transfergrid.trainers.trackers import end_tracker_runs

SaveAdapter = Callable[[Any, TrainedAdapter], None]
"""Called with the trained model, its best weights in place, and the record of the training."""


def train_adapter(
    job: TrainingJob, base: LoadedBase, config: GridConfig, *, scratch: Path, events: TrainingEvents, save: SaveAdapter
) -> TrainedAdapter:
    """Train one adapter on the base; the base is left as it was, after errors too.

    When memory runs out, the adapter starts again with half the batch and twice the accumulation.

    Raises:
        UserError: If the loss stops being finite, or memory does not suffice for a single example.
    """
    training = config.training
    shape = BatchShape(batch_size=training.batch_size, gradient_accumulation=training.gradient_accumulation)
    while True:
        try:
            reset_peak_memory(base.device)
            with trained_model(base, config, job.seed) as model:
                prepared = PreparedAdapter(model, job, base, config, shape=shape, scratch=scratch, events=events)
                prepared.trainer.train()
                trained = prepared.result()
                save(model, trained)
                return trained
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
        free_memory(base.device)
        end_tracker_runs()
        events(
            BatchHalved(job=job.name, batch_size=shape.batch_size, gradient_accumulation=shape.gradient_accumulation)
        )


class PreparedAdapter:
    """An adapter that is attached, its trainer, and what is noted of its training."""

    def __init__(  # noqa: PLR0913 - everything an attempt needs
        self,
        model: Any,
        job: TrainingJob,
        base: LoadedBase,
        config: GridConfig,
        *,
        shape: BatchShape,
        scratch: Path,
        events: TrainingEvents,
    ) -> None:
        """Make the trainer of a peft model and say that the adapter is started."""
        from transfergrid.trainers.sft.callback import BestWeights, ProgressCallback

        self._start, self._device, self._shape = time.perf_counter(), base.device, shape
        self._best = BestWeights(model)
        patience = config.training.early_stopping_patience
        self._progress = ProgressCallback(job.name, events, self._best, patience=patience)
        self.trainer = make_trainer(model, job, base, config.training, shape=shape, scratch=scratch)
        self.trainer.add_callback(self._progress)
        self._progress.trainer = self.trainer
        epochs = config.training.epochs
        n_steps, n_tokens = job.n_steps(shape.effective, epochs), epochs * job.data.n_train_tokens
        events(AdapterStarted(job=job.name, epochs=epochs, n_steps=n_steps, n_tokens=n_tokens))
        self._train_start = time.perf_counter()

    def result(self, *, at_once: int = 1) -> TrainedAdapter:
        """Put the best weights in place and return what is known; ``at_once`` adapters were trained in one pass."""
        best, progress, now = self._best, self._progress, time.perf_counter()
        best.restore()
        return TrainedAdapter(
            batch=self._shape,
            n_steps=self.trainer.state.global_step,
            best_epoch=best.epoch,
            best_validation_loss=best.loss,
            untrained_validation_loss=progress.untrained_loss,
            step_curve=progress.step_curve,
            epoch_curve=progress.epoch_curve,
            n_tokens=self.trainer.n_tokens_seen,
            train_s=now - self._train_start,
            wall_s=now - self._start,
            peak_gib=peak_memory_gib(self._device),
            adapters_at_once=at_once,
        )
