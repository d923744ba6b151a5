"""One adapter: attach, train, keep the epoch with the lowest validation loss, hand over the weights."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfergrid.config.settings import GridConfig, TrainingConfig
from transfergrid.grid import UserError
from transfergrid.trainers.base_model import LoadedBase, attached_adapter
from transfergrid.trainers.events import AdapterStarted, BatchHalved, TrainingEvents
from transfergrid.trainers.jobs import CellData, TrainingJob
from transfergrid.trainers.sft.memory import is_out_of_memory, peak_memory_gib, reset_peak_memory

SaveAdapter = Callable[[Any, "TrainedAdapter"], None]
"""Called with the peft model, its best weights in place, and the record of the training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """Examples per step, as memory allowed them."""

    batch_size: int
    gradient_accumulation: int

    @property
    def effective(self) -> int:
        """Examples per optimizer step."""
        return self.batch_size * self.gradient_accumulation

    def halved(self) -> BatchShape | None:
        """Return the next smaller shape with as many examples per optimizer step; None below one example."""
        for size in range(self.batch_size // 2, 0, -1):
            if self.effective % size == 0:
                return BatchShape(batch_size=size, gradient_accumulation=self.effective // size)
        return None


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


def train_adapter(
    job: TrainingJob, base: LoadedBase, config: GridConfig, *, scratch: Path, events: TrainingEvents, save: SaveAdapter
) -> TrainedAdapter:
    """Train one adapter on the base; whatever happens, the base is left as it was.

    When memory runs out, the adapter starts again with half the batch and twice the accumulation.

    Args:
        job: What to train.
        base: The base model, lent.
        config: Shape and recipe.
        scratch: Folder that TRL may write to.
        events: Told of every step and epoch.
        save: Called before the adapter is taken off.

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
        epochs = config.training.epochs
        events(
            AdapterStarted(
                job=job.name,
                epochs=epochs,
                n_steps=job.n_steps(shape.effective, epochs),
                n_tokens=epochs * job.data.n_train_tokens,
            )
        )
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


def make_trainer(
    model: Any, job: TrainingJob, base: LoadedBase, training: TrainingConfig, *, shape: BatchShape, scratch: Path
) -> Any:
    """Return the trainer of one adapter, every setting of the recipe in its place."""
    from transformers import PrinterCallback
    from trl import SFTConfig

    from transfergrid.trainers.sft.trainer import AdapterTrainer

    schedules = {"constant": "constant_with_warmup"}
    arguments = SFTConfig(
        output_dir=str(scratch),
        run_name=job.name,
        per_device_train_batch_size=shape.batch_size,
        gradient_accumulation_steps=shape.gradient_accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=schedules.get(training.schedule, training.schedule),
        warmup_steps=_warmup_steps(training, job.n_steps(shape.effective, training.epochs)),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        num_train_epochs=training.epochs,
        seed=job.seed,
        data_seed=job.seed,
        bf16=False,  # the base has its number format already; autocast would only copy it
        use_cpu=base.device == "cpu",
        gradient_checkpointing=training.gradient_checkpointing,
        eval_strategy="epoch",
        eval_on_start=True,
        save_strategy="no",  # the best weights are kept in memory
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(training.report_to),
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=base.device == "cuda",
    )
    # with several GPUs in sight transformers would spread batches over all of them; the base lies on the first
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = AdapterTrainer(
        model,
        arguments,
        train_dataset=_dataset(job.data, "train"),
        eval_dataset=_dataset(job.data, "validation"),
        processing_class=job.model.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _warmup_steps(training: TrainingConfig, n_steps: int) -> int:
    """Return the steps over which the learning rate rises, rounded up as transformers does."""
    return -int(-n_steps * training.warmup_ratio // 1)


def _dataset(data: CellData, part: str) -> Any:
    """Return one part of a cell as TRL reads it."""
    from datasets import Dataset

    examples = getattr(data, part)
    return Dataset.from_dict(
        {name: [list(getattr(example, name)) for example in examples] for name in ("input_ids", "labels")}
    )


def _free_memory(device: str) -> None:
    """Give freed memory back to the device."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
