"""Training beside its peers, in one run on one machine: seconds per step and adapter, peak memory, losses.

``python -m transfergrid.perf.training [--steps 3] [--language en]``; under ten minutes on two cores. The sides are
processes that take turns, one step each, so that other work on the machine slows all of them alike. Same model,
data, batches and seed; rank 32 on seven projections, batch 8; the first step of every task is not counted. The limit is
4 x parameters of the linear layers x tokens without padding, over the rate of a large matrix product.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast, get_args

import click
from rich.console import Console
from rich.table import Table

from transfergrid.config.settings import BUNDLED_MODEL
from transfergrid.config.training import TrainingConfig
from transfergrid.config.values import Dtype
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.resolve import resolve_model
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.grid import TASKS
from transfergrid.perf.engine_sides import gemm_rate
from transfergrid.perf.training_sides import BATCH, TrainingWorkload

SIDES = ("ours", "stock", "stock, no checkpointing", "release")
STUDY_STEPS = 102
"""Optimizer steps of one of the study's adapters: 270 items, batch 8, 3 epochs."""
GOALS = {
    "release / ours, seconds per adapter": "at least 5",
    "stock / ours, seconds per step": "at least 1.3",
    "stock without checkpointing / ours, seconds per step": "",
    "peak memory, ours / stock": "at most 1",
    "largest difference of final losses, %": "at most 1 (in float32)",
    "the same among the other sides, %": "",
    "limit / ours": "",
}


@dataclass
class Side:
    """A process that trains, and what it measured."""

    process: subprocess.Popen[str]
    setup_s: dict[str, float] = field(default_factory=dict)
    step_s: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    peak_gib: dict[str, float] = field(default_factory=dict)

    def tell(self) -> None:
        """Let it go on to its next answer."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for its next answer.

        Raises:
            click.ClickException: If it ended instead.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise click.ClickException(f"side {self.process.args!r} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def adapter_s(self, task: str) -> float:
        """Seconds of one of the study's adapters at the measured speed: set-up and steps, without validation."""
        return self.setup_s[task] + STUDY_STEPS * median(self.step_s[task])


def measure(sides: dict[str, Side], workload: TrainingWorkload) -> list[float]:
    """Let the sides take turns; return the rates of a matrix product measured between the turns, FLOP/s."""
    rates = []
    for task in workload.max_length:
        for side in sides.values():
            side.tell()
            side.setup_s[task] = side.answer()["setup_s"]
            side.step_s[task] = []
        for step in range(workload.n_steps):
            rates.append(gemm_rate(workload.dtype))
            for name, side in sides.items():
                side.tell()
                seconds = side.answer()["step_s"]
                click.echo(f"{task} step {step + 1}, {name}: {seconds:.2f} s", err=True)
                if step:
                    side.step_s[task].append(seconds)
                if step == workload.n_steps - 1:
                    end = side.answer()
                    side.losses[task], side.peak_gib[task] = end["losses"], end["peak_gib"]
    return rates


def ratios(sides: dict[str, Side], limit_s: float) -> dict[str, float]:
    """Return the figures that the goals are about; sides that did not run leave theirs out."""
    ours = sides["ours"]

    def steps_s(side: Side) -> float:
        return sum(median(seconds) for seconds in side.step_s.values())

    found = {"limit / ours": limit_s / steps_s(ours)}
    if "release" in sides:
        release = sides["release"]
        found["release / ours, seconds per adapter"] = sum(map(release.adapter_s, TASKS)) / sum(
            map(ours.adapter_s, TASKS)
        )
    if "stock" in sides:
        stock = sides["stock"]
        found["stock / ours, seconds per step"] = steps_s(stock) / steps_s(ours)
        found["peak memory, ours / stock"] = max(ours.peak_gib.values()) / max(stock.peak_gib.values())
    if (other := sides.get("stock, no checkpointing")) is not None:
        found["stock without checkpointing / ours, seconds per step"] = steps_s(other) / steps_s(ours)
    found["largest difference of final losses, %"] = _loss_spread(ours, sides.values())
    others = [side for name, side in sides.items() if name != "ours"]
    found["the same among the other sides, %"] = max((_loss_spread(side, others) for side in others), default=0.0)
    return {name: found[name] for name in GOALS if name in found}


def _loss_spread(reference: Side, sides: Iterable[Side]) -> float:
    """Return the largest difference of last losses to one side, in percent; rounding in bfloat16 is part of it."""
    return 100 * max(abs(side.losses[task][-1] / reference.losses[task][-1] - 1) for side in sides for task in TASKS)


def show(console: Console, sides: dict[str, Side], tokens: dict[str, int], limit_s: float) -> None:
    """Print seconds, memory and losses per task, then the ratios beside their goals."""
    table = Table("task", "side", "tokens a step", "median s", "lowest s", "tok/s", "set-up s", "peak GiB", "last loss")
    for task in TASKS:
        for name, side in sides.items():
            seconds = median(side.step_s[task])
            table.add_row(
                task,
                name,
                str(tokens[task]),
                f"{seconds:.2f}",
                f"{min(side.step_s[task]):.2f}",
                f"{tokens[task] / seconds:.0f}",
                f"{side.setup_s[task]:.1f}",
                f"{side.peak_gib[task]:.2f}",
                f"{side.losses[task][-1]:.4f}",
            )
    console.print(table)
    goals = Table("figure", "measured", "goal")
    for name, value in ratios(sides, limit_s).items():
        goals.add_row(name, f"{value:.3f}", GOALS[name])
    console.print(goals)


@click.command(help=__doc__)
@click.option("--steps", default=3, show_default=True, type=click.IntRange(2), help="Steps per task; one is warm-up.")
@click.option("--language", default="en", show_default=True, help="Language of the bundled train items.")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(get_args(Dtype)),
    help="Number format; float32 tells a wrong loss from rounding.",
)
@click.option("--sides", default=SIDES, show_default=True, multiple=True, type=click.Choice(SIDES))
def main(steps: int, language: str, dtype: Dtype, sides: tuple[str, ...]) -> None:
    """Start the sides, measure, print."""
    start = time.perf_counter()
    folder = resolve_model(BUNDLED_MODEL)
    workload = TrainingWorkload(
        model=str(folder),
        data=str(Path(__file__).parents[1] / "benchmarks_data"),
        language=language,
        dtype=cast(Dtype, resolve_dtype(dtype)),
        n_steps=steps,
        max_length=TrainingConfig().max_length,
    )
    started = {
        name: Side(
            subprocess.Popen(
                [sys.executable, "-m", "transfergrid.perf.training_sides", name, json.dumps(asdict(workload))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        for name in dict.fromkeys(("ours", *sides))
    }
    try:
        rates = measure(started, workload)
    finally:
        for side in started.values():
            side.process.kill()
    tokenizer, facts = load_tokenizer(folder), read_model_facts(folder)
    examples = {task: workload.examples(tokenizer, task) for task in TASKS}
    tokens = {task: sum(len(e.input_ids) for e in found) * BATCH // len(found) for task, found in examples.items()}
    limit_s = 4 * facts.n_layer_parameters * sum(tokens.values()) / median(rates)
    console = Console(highlight=False, width=120)
    console.print(
        f"{platform.processor() or platform.machine()}, {workload.dtype}, {language}, GEMM {min(rates) / 1e9:.0f} to "
        f"{max(rates) / 1e9:.0f} GFLOP/s, median {median(rates) / 1e9:.0f}; {steps - 1} counted steps of {BATCH} "
        f"examples per task; {time.perf_counter() - start:.0f} s in all"
    )
    show(console, started, tokens, limit_s)


if __name__ == "__main__":
    main()
