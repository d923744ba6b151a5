"""The full study on 1, 8 and 64 GPUs, on paper: ``python -m transfergrid.perf.scaling``.

A discrete simulation. The cluster's own code (``engine.cluster.units``) cuts units and gives them to workers. The time
of a unit is computed from token counts and efficiencies measured on this project's CPU machine, and from numbers of a
GPU that are published or assumed. No GPU was timed for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from transfergrid.engine.cluster.units import UnitQueue, group_units
from transfergrid.wording import format_duration

N_SEEDS, N_CELLS, N_ITEMS = 3, 44, 400
TFLOP, GB = 1e12, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Where every number comes from."""

    # measured here (docs/performance.md, bfloat16, two cores, SmolLM2-135M's tokenizer)
    unique_tokens_per_item: float = 5880 / 45
    """Real items of three tasks in de, en, hi, every distinct prefix once."""
    scored_rows_per_item: float = 2386 / 45
    """Rows that go through the vocabulary projection."""
    base_efficiency: float = 1 / 1.37
    """Limit / pass, base, relative to the rate of a large matrix product."""
    adapter_efficiency: float = 1 / 1.60
    """The same under an adapter."""
    training_efficiency: float = 0.29
    """The same of training, limit 4 x parameters x tokens."""
    train_tokens_per_example: float = 59.0
    """Mean of the four tasks' bundled English items."""
    # the study (arXiv 2511.13368)
    train_examples: float = 0.9 * (3 * 300 + 215) / 4
    epochs: int = 3
    # published
    peak_tflops: float = 989.4
    """H100 SXM, bfloat16, dense: NVIDIA's data sheet."""
    # assumed
    matrix_share: float = 0.6
    """Share of the peak that a large matrix product reaches."""
    train_token_factor: float = 2.0
    """Longer real items and scripts that take more tokens than bundled English ones."""
    start_s: float = 40.0
    """Start of an engine or trainer without reading the weights."""
    read_gb_per_s: float = 1.0
    """Weights from shared storage, per worker."""
    tensor_parallel_efficiency: float = 0.8
    """Of four GPUs that share a model, against four alone."""


class Decoder(NamedTuple):
    """Shape of a model, from its published ``config.json``."""

    n_layers: int
    hidden: int
    inner: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers between embeddings and vocabulary projection."""
        attention = 2 * self.n_heads * self.head_dim + 2 * self.n_kv_heads * self.head_dim
        return self.n_layers * self.hidden * (attention + 3 * self.inner)

    @property
    def lora_inputs(self) -> int:
        """Values that the LoRA products of one layer read per token: hidden for q, k, v, gate and up, and two more."""
        return self.n_heads * self.head_dim + 5 * self.hidden + self.inner

    @property
    def lora_outputs(self) -> int:
        """Values that they add to: q, k, v, o, gate, up, down."""
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim + 2 * self.hidden + 2 * self.inner

    @property
    def head_parameters(self) -> int:
        """Weights of the vocabulary projection."""
        return self.vocabulary * self.hidden


STUDY: Mapping[str, Decoder] = {
    "Llama-3.2-1B": Decoder(16, 2048, 8192, 32, 8, 64, 128_256),
    "Llama-3.2-3B": Decoder(28, 3072, 8192, 24, 8, 128, 128_256),
    "Llama-3.1-8B": Decoder(32, 4096, 14_336, 32, 8, 128, 128_256),
    "Qwen2.5-0.5B": Decoder(24, 896, 4864, 14, 2, 64, 151_936),
    "Qwen2.5-1.5B": Decoder(28, 1536, 8960, 12, 2, 128, 151_936),
    "Qwen2.5-3B": Decoder(36, 2048, 11_008, 16, 2, 128, 151_936),
    "Qwen2.5-7B": Decoder(28, 3584, 18_944, 28, 4, 128, 152_064),
    "gemma-3-1b": Decoder(26, 1152, 6912, 4, 1, 256, 262_144),
    "gemma-3-4b": Decoder(34, 2560, 10_240, 8, 4, 256, 262_208),
}
LARGE: Mapping[str, Decoder] = {"Llama-3.1-70B": Decoder(80, 8192, 28_672, 64, 8, 128, 128_256)}


class Job(NamedTuple):
    """One source: its adapter is trained, or it is scored on all cells."""

    model: str
    seed: int | None


class Run(NamedTuple):
    """What a simulation gives."""

    makespan_s: float
    n_loads: int
    work_s: float
    """GPU seconds of all workers together, loading left out."""
    load_s: float
    n_workers: int

    @property
    def idle_share(self) -> float:
        """Share of the workers' time in which they wait for the last one."""
        return 1 - (self.work_s + self.load_s) / (self.makespan_s * self.n_workers)


def scoring_s(model: Decoder, inputs: Inputs, *, is_base: bool) -> float:
    """Return the seconds of one source on all cells: the limit of docs/performance.md over what is reached of it."""
    flop = 2 * inputs.unique_tokens_per_item * model.linear_parameters
    flop += 2 * inputs.scored_rows_per_item * model.head_parameters
    efficiency = inputs.base_efficiency if is_base else inputs.adapter_efficiency
    return N_CELLS * N_ITEMS * flop / (inputs.peak_tflops * TFLOP * inputs.matrix_share * efficiency)


def training_s(model: Decoder, inputs: Inputs) -> float:
    """Return the seconds of one adapter's training."""
    tokens = inputs.epochs * inputs.train_examples * inputs.train_tokens_per_example * inputs.train_token_factor
    rate = inputs.peak_tflops * TFLOP * inputs.matrix_share * inputs.training_efficiency
    return 4 * model.linear_parameters * tokens / rate


def load_s(model: Decoder, inputs: Inputs) -> float:
    """Return the seconds from nothing to a base in memory."""
    return inputs.start_s + 2 * (model.linear_parameters + model.head_parameters) / GB / inputs.read_gb_per_s


def simulate(
    models: Mapping[str, Decoder], n_workers: int, *, with_base: bool, job_s: Callable[[Job], float], load: Inputs
) -> Run:
    """Give out units as on a cluster, and add up the time."""
    groups: dict[tuple[str, int | None], list[Job]] = {}
    for name in models:
        if with_base:
            groups[name, None] = [Job(name, None)]
        for seed in range(N_SEEDS):
            groups[name, seed] = [Job(name, seed)] * N_CELLS
    units = group_units(groups, lambda job: float(models[job.model].linear_parameters), n_workers=n_workers)
    queue = UnitQueue(units)
    held: dict[str, str] = {}
    idle = [(0.0, f"w{number:03}") for number in range(n_workers)]
    for _, worker in idle:
        queue.join(worker)
    makespan = work = loading = 0.0
    while idle:
        now, worker = heapq.heappop(idle)
        if (unit := queue.take(worker)) is None:
            continue
        queue.finish(worker)
        wait = 0.0 if held.get(worker) == unit.model else load_s(models[unit.model], load)
        held[worker] = unit.model
        seconds = sum(map(job_s, unit.jobs))
        work, loading, makespan = work + seconds, loading + wait, max(makespan, now + wait + seconds)
        heapq.heappush(idle, (now + wait + seconds, worker))
    return Run(makespan, queue.n_loads, work, loading, n_workers)


def simulate_both(models: Mapping[str, Decoder], n_gpus: int, inputs: Inputs, *, gpus_per_worker: int) -> list[Run]:
    """Return training and scoring on so many GPUs; GPUs that share a model work as one faster one."""
    if gpus_per_worker > 1:
        speed = inputs.peak_tflops * gpus_per_worker * inputs.tensor_parallel_efficiency
        inputs = replace(inputs, peak_tflops=speed)
    workers = n_gpus // gpus_per_worker
    return [
        simulate(
            models,
            workers,
            with_base=False,
            job_s=lambda job: training_s(models[job.model], inputs),
            load=inputs,
        ),
        simulate(
            models,
            workers,
            with_base=True,
            job_s=lambda job: scoring_s(models[job.model], inputs, is_base=job.seed is None),
            load=inputs,
        ),
    ]


def tabulate(models: Mapping[str, Decoder], gpus: tuple[int, ...], inputs: Inputs, *, gpus_per_worker: int) -> Table:
    """Return one row per phase and number of GPUs."""
    n_adapters = len(models) * N_SEEDS * N_CELLS
    title = f"{n_adapters:,} adapters of {len(models)} model(s)"
    title += f", {gpus_per_worker} GPUs per model" if gpus_per_worker > 1 else ""
    table = Table(title=title)
    for column in ("GPUs", "phase", "makespan", "speed-up", "loads", "loading", "idle", "rows/s", "adapters/h"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    first: dict[str, float] = {}
    n_rows = len(models) * (N_SEEDS * N_CELLS + 1) * N_CELLS * N_ITEMS
    for n_gpus in gpus:
        for phase, run in zip(
            ("train", "score"), simulate_both(models, n_gpus, inputs, gpus_per_worker=gpus_per_worker), strict=True
        ):
            first.setdefault(phase, run.makespan_s)
            per_s = f"{n_rows / run.makespan_s:,.0f}" if phase == "score" else ""
            per_h = f"{3600 * n_adapters / run.makespan_s:,.0f}" if phase == "train" else ""
            table.add_row(
                str(n_gpus),
                phase,
                format_duration(run.makespan_s),
                f"{first[phase] / run.makespan_s:.1f}",
                str(run.n_loads),
                f"{run.load_s / (run.makespan_s * run.n_workers):.0%}",
                f"{max(0.0, run.idle_share):.0%}",
                per_s,
                per_h,
            )
    return table


@click.command()
@click.option("--matrix-share", default=Inputs().matrix_share, show_default=True, help="Assumed share of the peak.")
@click.option("--read-gb-per-s", default=Inputs().read_gb_per_s, show_default=True, help="Assumed speed of weights.")
def main(matrix_share: float, read_gb_per_s: float) -> None:
    """Print the study and a 70B model on paper."""
    inputs = replace(Inputs(), matrix_share=matrix_share, read_gb_per_s=read_gb_per_s)
    console = Console(width=100)
    console.print(tabulate(STUDY, (1, 8, 64), inputs, gpus_per_worker=1))
    console.print(tabulate(LARGE, (4, 8, 64), inputs, gpus_per_worker=4))


if __name__ == "__main__":
    main()
