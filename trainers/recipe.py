"""The recipe of one adapter as the settings of TRL's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfergrid.config.training import TrainingConfig
from transfergrid.trainers.base_model import LoadedBase
from transfergrid.trainers.examples import CellData
from transfergrid.trainers.jobs import BatchShape, TrainingJob
from transfergrid.trainers.sft.microbatches import LIMITS


def make_trainer(
    model: Any, job: TrainingJob, base: LoadedBase, training: TrainingConfig, *, shape: BatchShape, scratch: Path
) -> Any:
    """Return the trainer of one adapter, every setting of the recipe in its place."""
    from transformers import PrinterCallback

    from transfergrid.trainers.sft.trainer import AdapterTrainer

    trainer = AdapterTrainer(
        model,
        _arguments(job, base, training, shape=shape, scratch=scratch),
        train_dataset=_dataset(job.data, "train"),
        eval_dataset=_dataset(job.data, "validation"),
        processing_class=job.model.tokenizer,
        plain_head=base.plain_head,
        dtype=base.dtype if training.method == "full" else "float32",
        limits=LIMITS[base.device].shrunk(shape.batch_size / training.batch_size),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(
    job: TrainingJob, base: LoadedBase, training: TrainingConfig, *, shape: BatchShape, scratch: Path
) -> Any:
    """Return TRL's settings."""
    from trl import SFTConfig

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
    # with several visible GPUs transformers would spread batches over all of them; the base lies on the first
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


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
