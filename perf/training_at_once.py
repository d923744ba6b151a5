"""Adapters side by side beside one by one, in one process and in turns: passes, launches, a whole task.

``python -m transfergrid.perf.training_at_once [--rounds 3] [--task arc_challenge]``; some ten minutes on two cores.
Bundled items of 11 languages, SmolLM2-135M, batch 8, rank 32. The limit is 4 x parameters of the linear layers x tokens
without padding, over the rate of a large matrix product. Launches are the device's kernels, on a CPU the operations
that compute something, of one optimizer step with clipping and AdamW, of examples cut to 16 tokens
in groups as on a GPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config.selection import Narrowing, select
from transfergrid.config.settings import GridConfig
from transfergrid.config.training import LoraConfig, TrainingConfig
from transfergrid.config.values import Dtype
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.grid import TASKS
from transfergrid.perf.engine_sides import gemm_rate
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.adapter_training import PreparedAdapter
from transfergrid.trainers.base_model import AttachedAdapter, LoadedBase, load_base, targeted_layers
from transfergrid.trainers.events import ignore_events
from transfergrid.trainers.jobs import BatchShape, TrainingJob, prepare_jobs
from transfergrid.trainers.sft.joint_pass import Batch, JointPass
from transfergrid.trainers.sft.microbatches import LIMITS, MicrobatchLimits
from transfergrid.trainers.sft.steps import AdapterSteps, Steps
from transfergrid.trainers.side_by_side import train_jobs

NUMBERS = (1, 4, 11, 44)
_LAUNCH_RANK = 8
"""Rank of the adapters whose launches are counted; it changes none of them, and 44 fit into memory."""
_NO_WORK = (
    "empty",
    "view",
    "as_strided",
    "detach",
    "transpose",
    "slice",
    "select",
    "expand",
    "alias",
    "resolve",
    "unbind",
)


@contextmanager
def at_first_steps(
    jobs: Sequence[TrainingJob], base: LoadedBase, config: GridConfig, limits: MicrobatchLimits
) -> Iterator[tuple[JointPass, list[tuple[Steps, Batch]]]]:
    """Give out a pass and adapters whose first optimizer step comes next."""
    shape = BatchShape(batch_size=config.training.batch_size, gradient_accumulation=1)
    layers = targeted_layers(base.model, config.lora.target_modules)
    joint, lanes = JointPass(base.model, layers, limits=limits), []
    with tempfile.TemporaryDirectory() as scratch:
        for job in jobs:
            adapter = AttachedAdapter(base, config.lora, job.seed)
            with adapter.on_base() as model:
                prepared = PreparedAdapter(
                    model, job, base, config, shape=shape, scratch=Path(scratch), events=ignore_events
                )
                prepared.trainer.args.eval_on_start = False
                steps = AdapterSteps(prepared.trainer, adapter.weights).run()
            lanes.append((steps, next(steps)))
        yield joint, lanes
        for steps, _ in lanes:
            steps.close()


def time_passes(joint: JointPass, batches: Sequence[Batch], rounds: int) -> tuple[float, float]:
    """Return the median seconds of all batches in one pass, and of each in its own; in turns, the first not counted."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds + 1):
        for together in (True, False):
            start = time.perf_counter()
            for part in [batches] if together else [[batch] for batch in batches]:
                joint.compute(part)
            seconds[together].append(time.perf_counter() - start)
            for batch in batches:
                for layer in batch.adapter.values():
                    layer.a.grad = layer.b.grad = None
    return median(seconds[True][1:]), median(seconds[False][1:])


def count_launches(joint: JointPass, lanes: Sequence[tuple[Steps, Batch]]) -> int:
    """Return the kernels of one optimizer step of all adapters; on a CPU the operations that compute."""
    from torch.profiler import profile

    with profile() as found:
        losses = joint.compute([batch for _, batch in lanes])
        for (steps, _), loss in zip(lanes, losses, strict=True):
            steps.send(loss)
    events = found.events() or []
    if kernels := [event for event in events if event.device_type.name == "CUDA"]:
        return len(kernels)
    return sum(
        event.name.startswith("aten::") and not event.cpu_children and not any(word in event.name for word in _NO_WORK)
        for event in events
    )


def cut(job: TrainingJob) -> TrainingJob:
    """Return a job whose examples are their last 16 tokens; its steps take as many launches, and less time."""
    short = tuple(
        replace(example, input_ids=example.input_ids[-16:], labels=example.labels[-16:]) for example in job.data.train
    )
    return replace(job, data=replace(job.data, train=short))


def time_task(jobs: Sequence[TrainingJob], base: LoadedBase, config: GridConfig, rounds: int) -> dict[int, float]:
    """Return the median seconds in which all jobs are trained and saved, one by one and all at once."""
    seconds: dict[int, list[float]] = {1: [], len(jobs): []}
    for _ in range(rounds):
        for at_once, found in seconds.items():
            own = with_training(config, adapters_at_once=at_once)
            with tempfile.TemporaryDirectory() as root:
                run = RunFolder(Path(root))
                placed = [replace(job, folder=run.adapter(job.model.config.name, job.seed, job.source)) for job in jobs]
                start = time.perf_counter()
                train_jobs(placed, base, own, run, events=ignore_events)
                found.append(time.perf_counter() - start)
    return {at_once: median(found) for at_once, found in seconds.items()}


def with_training(config: GridConfig, **changes: Any) -> GridConfig:
    """Return a configuration with other settings of training."""
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Counted turns of every figure.")
@click.option("--task", default="arc_challenge", show_default=True, type=click.Choice(TASKS))
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1), help="Of the whole task.")
@click.option("--dtype", default="auto", show_default=True, type=click.Choice(["auto", "bfloat16", "float32"]))
def main(rounds: int, task: str, epochs: int, dtype: str) -> None:
    """Measure and print."""
    start, console = time.perf_counter(), Console(highlight=False, width=110)
    resolved = cast(Dtype, resolve_dtype(cast(Dtype, dtype)))
    config = GridConfig(training=TrainingConfig(dtype=resolved, epochs=epochs))
    with tempfile.TemporaryDirectory() as root:
        run = RunFolder(Path(root))
        ensure_data(config, run.data)
        jobs = prepare_jobs(config, run, select(config, Narrowing(tasks=(task,), seeds=config.seeds[:1])))
    base = load_base(jobs[0].model.folder, config.training)
    table = Table("adapters", "tokens", "one pass, s", "one by one, s", "one by one / one pass", "limit / one pass")
    n_parameters = read_model_facts(jobs[0].model.folder).n_layer_parameters
    for number in NUMBERS[:-1]:
        with at_first_steps(jobs[:number], base, config, LIMITS[base.device]) as (joint, lanes):
            batches = [batch for _, batch in lanes]
            rate = gemm_rate(resolved)
            together, alone = time_passes(joint, batches, rounds)
            rate = median([rate, gemm_rate(resolved)])
        n_tokens = sum(int(batch.inputs["attention_mask"].sum()) for batch in batches)
        figures = (f"{together:.2f}", f"{alone:.2f}", f"{alone / together:.2f}")
        limit = f"{4 * n_parameters * n_tokens / rate / together:.2f}"
        table.add_row(str(number), str(n_tokens), *figures, limit)
    console.print(f"{task}, {resolved} on {base.device}; forward and backward of one step of 8 examples an adapter")
    console.print(table)
    table = Table("adapters", "launches a step", "a step and adapter")
    small = config.model_copy(update={"lora": LoraConfig(r=_LAUNCH_RANK, alpha=2 * _LAUNCH_RANK)})
    for number in NUMBERS:
        with at_first_steps([cut(job) for job in jobs * 4][:number], base, small, LIMITS["cuda"]) as (joint, lanes):
            n_launches = count_launches(joint, lanes)
        table.add_row(str(number), f"{n_launches:,}", f"{n_launches / number:,.0f}")
    console.print(table)
    seconds = time_task(jobs, base, config, rounds)
    one_by_one, at_once = seconds.values()
    console.print(
        f"{len(jobs)} adapters, {epochs} epoch(s), set-up, validation and saving included: one by one {one_by_one:.1f} "
        f"s, side by side {at_once:.1f} s, ratio {one_by_one / at_once:.2f}; {time.perf_counter() - start:.0f} s in all"
    )


if __name__ == "__main__":
    main()
