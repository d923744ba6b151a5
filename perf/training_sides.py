"""The sides of the training benchmark: each trains in a process of its own and makes a step when it is asked to.

``perf.training`` starts one as ``python -m transfergrid.perf.training_sides NAME JSON``. For every task it prepares,
says so, then makes one optimizer step for every line it reads, so that several sides take turns on one machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from transfergrid.benchmarks.rows import read_jsonl
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.settings import ModelConfig
from transfergrid.config.training import LoraConfig, TrainingConfig
from transfergrid.config.values import Dtype
from transfergrid.engine.models.device import device_type
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.grid import Cell, Source
from transfergrid.trainers.base_model import LoadedBase, attached_adapter, load_base
from transfergrid.trainers.examples import CellData, ExampleSettings, TrainingExample, build_examples
from transfergrid.trainers.jobs import BatchShape, ResolvedModel, TrainingJob
from transfergrid.trainers.recipe import make_trainer
from transfergrid.trainers.sft import IGNORED
from transfergrid.trainers.sft.memory import peak_memory_gib, reset_peak_memory

SEED, BATCH = 17, 8
RELEASE_BATCH = 2
"""Examples at once in the release's recipe, four times a step: its full batch at 512 tokens needs over 12 GiB."""
LORA = LoraConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWorkload:
    """What every side trains; crosses processes as JSON."""

    model: str
    data: str
    language: str
    dtype: Dtype
    n_steps: int
    max_length: dict[str, int]

    def examples(self, tokenizer: Any, task_name: str) -> list[TrainingExample]:
        """Return the bundled train items of one task as examples."""
        task = get_task(task_name)
        rows = read_jsonl(Path(self.data) / task_name / self.language / "train.jsonl")
        train = task.formats["train"]
        settings = ExampleSettings(max_length=self.max_length[task_name], supervise=train.supervise)
        return build_examples(tokenizer, [train.build(task.question(row)) for row in rows], settings)

    def recipe(self) -> dict[str, Any]:
        """Return the settings that all sides share, as transformers names them."""
        return {
            "max_steps": self.n_steps,
            "learning_rate": 5e-5,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "seed": SEED,
            "data_seed": SEED,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "use_cpu": device_type() == "cpu",
            "bf16": self.dtype == "bfloat16",
        }


class Pace(TrainerCallback):
    """Waits for a line before every step, and answers with its seconds."""

    def __init__(self) -> None:
        """Start the clock at the first step."""
        self._start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait."""
        sys.stdin.readline()
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Answer."""
        say(step_s=time.perf_counter() - self._start)


def say(**message: Any) -> None:
    """Write one line of JSON for the parent."""
    print(json.dumps(message), file=sys.__stdout__, flush=True)


def as_dataset(examples: list[TrainingExample]) -> Any:
    """Return examples as a data set."""
    from datasets import Dataset

    return Dataset.from_dict({name: [list(getattr(e, name)) for e in examples] for name in ("input_ids", "labels")})


def losses(trainer: Any) -> list[float]:
    """Return the logged loss of every step."""
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def peft_lora() -> Any:
    """Return the study's adapter shape as peft names it."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        task_type="CAUSAL_LM", r=LORA.r, lora_alpha=LORA.alpha, target_modules=list(LORA.target_modules)
    )


class Ours:
    """This project's way: one base in memory, adapters attached and removed."""

    def __init__(self, workload: TrainingWorkload) -> None:
        """Load the base once."""
        self._workload, folder = workload, Path(workload.model)
        self._model = ResolvedModel(ModelConfig(path=workload.model), folder, "", load_tokenizer(folder))
        self._training = TrainingConfig(dtype=workload.dtype, schedule="constant", warmup_ratio=0.0)
        self._base = load_base(folder, self._training)

    @contextmanager
    def trainer(self, task: str, scratch: str) -> Iterator[Any]:
        """Attach an adapter and give out its trainer."""
        examples = tuple(self._workload.examples(self._model.tokenizer, task))
        data = CellData(examples, examples[:1], "")
        job = TrainingJob(self._model, SEED, Source.of(Cell(task, self._workload.language)), Path(scratch), data)
        shape = BatchShape(batch_size=BATCH, gradient_accumulation=1)
        with attached_adapter(self._base, LORA, SEED) as model:
            trainer = make_trainer(model, job, self._base, self._training, shape=shape, scratch=Path(scratch))
            trainer.args.max_steps, trainer.args.eval_strategy = self._workload.n_steps, "no"
            yield trainer


class Stock:
    """TRL's SFTTrainer with its defaults, the base in memory; dynamic padding is one of them."""

    def __init__(self, workload: TrainingWorkload, *, gradient_checkpointing: bool = True) -> None:
        """Load the base once."""
        self._workload, self._checkpointing = workload, gradient_checkpointing
        self._tokenizer = load_tokenizer(Path(workload.model))
        self._base: LoadedBase = load_base(Path(workload.model), TrainingConfig(dtype=workload.dtype))

    @contextmanager
    def trainer(self, task: str, scratch: str) -> Iterator[Any]:
        """Make an SFTTrainer that attaches the adapter itself."""
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=BATCH,
            gradient_checkpointing=self._checkpointing,
            logging_steps=1,
            **self._workload.recipe(),
        )
        data = as_dataset(self._workload.examples(self._tokenizer, task))
        trainer = SFTTrainer(
            self._base.model, arguments, train_dataset=data, processing_class=self._tokenizer, peft_config=peft_lora()
        )
        try:
            yield trainer
        finally:
            vars(trainer.model.unload()).pop("forward", None)  # else patched again by the next trainer


class Release:
    """The release's recipe: a fresh base for every adapter, fixed padding, transformers' Trainer, full logits."""

    def __init__(self, workload: TrainingWorkload) -> None:
        """Load nothing yet."""
        self._workload = workload
        self._tokenizer = load_tokenizer(Path(workload.model))

    def _collate(self, rows: list[dict[str, list[int]]], length: int) -> dict[str, torch.Tensor]:
        """Pad everything to one length."""
        fills = {"input_ids": self._tokenizer.pad_token_id, "labels": IGNORED}
        batch = {
            name: torch.tensor([row[name] + [fill] * (length - len(row[name])) for row in rows])
            for name, fill in fills.items()
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        return batch | {"attention_mask": (torch.arange(length) < lengths[:, None]).long()}

    @contextmanager
    def trainer(self, task: str, scratch: str) -> Iterator[Any]:
        """Load the base, attach the adapter, make a Trainer."""
        from peft import get_peft_model
        from transformers import Trainer, TrainingArguments, set_seed

        base = load_base(Path(self._workload.model), TrainingConfig(dtype=self._workload.dtype))
        set_seed(SEED)
        length = self._workload.max_length[task]
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=RELEASE_BATCH,
            gradient_accumulation_steps=BATCH // RELEASE_BATCH,
            logging_steps=1,
            **self._workload.recipe(),
        )
        yield Trainer(
            get_peft_model(base.model, peft_lora()),
            arguments,
            train_dataset=as_dataset(self._workload.examples(self._tokenizer, task)),
            data_collator=lambda rows: self._collate(rows, length),
        )


def run(name: str, workload: TrainingWorkload) -> None:
    """Train an adapter of every task, step by step as told."""
    makers: dict[str, Callable[[TrainingWorkload], Any]] = {
        "ours": Ours,
        "stock": Stock,
        "stock, no checkpointing": lambda workload: Stock(workload, gradient_checkpointing=False),
        "release": Release,
    }
    side = makers[name](workload)
    device = device_type()
    for task in workload.max_length:
        sys.stdin.readline()
        reset_peak_memory(device)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch, side.trainer(task, scratch) as trainer:
            trainer.add_callback(Pace())
            say(setup_s=time.perf_counter() - start)
            trainer.train()
            say(losses=losses(trainer), peak_gib=peak_memory_gib(device))


if __name__ == "__main__":
    settings = TrainingWorkload(**json.loads(sys.argv[2]))
    sys.stdout = sys.stderr  # what the libraries print is no message
    run(sys.argv[1], settings)
