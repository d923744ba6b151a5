"""Host time of a step: what Python, NumPy and vLLM's bookkeeping cost beside the arithmetic of the device.

``python -m transfergrid.perf.host``; half a minute on two cores. A planned pass of 16,384-token steps goes through our
worker on a two-layer model whose forward pass and vocabulary projection are left out, so that all that is measured is
the host's. A pass over one item, with and without the forward pass, gives the cost of calling one layer.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.interfaces import Adapter, TokenisedItem
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.perf.workload import RANK, TINY, make_adapters, make_model

STEP_TOKENS = 16_384
REPEATS = 5
GOAL_MS = 2.0


def make_items(n_items: int) -> list[TokenisedItem]:
    """Return items shaped like multiple-choice questions: a common head, a context, four choices."""
    random = np.random.default_rng(0)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(random.integers(0, TINY.vocabulary, random.integers(low, high)).tolist())

    head = tokens(30, 31)
    return [
        TokenisedItem(
            item_id=str(index),
            context=head + tokens(40, 150),
            continuations=tuple(tokens(4, 28) for _ in range(4)),
        )
        for index in range(n_items)
    ]


@contextmanager
def without_arithmetic(scorer: Any) -> Iterator[None]:
    """Leave out what a device does: forward pass, projection, softmax and copies of blocks."""
    import torch

    from transfergrid.engine.workers.steps import StepRunner

    def model_class(worker: Any) -> Any:
        return type(worker.model_runner.model)

    kind = scorer._llm.collective_rpc(model_class)[0]
    hidden, logits = torch.zeros(STEP_TOKENS, 1), torch.zeros(1, 1)
    kept = kind.forward, kind.compute_logits, StepRunner.copy_blocks, torch.log_softmax
    StepRunner.copy_blocks = lambda *arguments: None
    torch.log_softmax = lambda rows, **keywords: rows
    kind.forward = lambda self, input_ids, *arguments, **keywords: hidden[: len(input_ids)]
    kind.compute_logits = lambda self, rows: logits.expand(len(rows), TINY.vocabulary)
    try:
        yield
    finally:
        kind.forward, kind.compute_logits, StepRunner.copy_blocks, torch.log_softmax = kept


def lowest_s(run: Callable[[], Any]) -> float:
    """Return the lowest seconds of some calls, after one that is not counted: other work on the machine only adds."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def profiled(run: Callable[[], Any], n_steps: int, n_rows: int) -> Table:
    """Return the functions that take the most time of their own, in milliseconds a step with the profiler on."""
    profiler = cProfile.Profile()
    profiler.runcall(run)
    entries = pstats.Stats(profiler).get_stats_profile().func_profiles.items()
    table = Table("function", "file", "calls/step", "ms/step", title="By cause, with the profiler on")
    for name, entry in sorted(entries, key=lambda pair: -pair[1].tottime)[:n_rows]:
        place = f"{Path(entry.file_name).name}:{entry.line_number}"
        calls = float(entry.ncalls.split("/")[0]) / n_steps
        table.add_row(name, place, f"{calls:.0f}", f"{1000 * entry.tottime / n_steps:.3f}")
    return table


@click.command(help=__doc__)
@click.option("--items", default=1500, show_default=True)
@click.option("--causes", default=12, show_default=True, help="functions to list")
def main(items: int, causes: int) -> None:
    """Measure and print."""
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as name:
        folder = make_model(Path(name) / "model", TINY)
        make_adapters(folder, Path(name), 1)
        adapter = check_adapter(Path(name) / "0", read_linear_shapes(folder), name="a0")
        measure(console, folder, adapter, make_items(items), n_causes=causes)


def measure(console: Console, folder: Path, adapter: Adapter, items: list[TokenisedItem], *, n_causes: int) -> None:
    """Print host time per step and sequence, its causes, and the cost of calling a layer."""
    import torch

    from transfergrid.engine.scorers.launch import start_vllm

    config = EngineConfig(dtype="float32", token_budget=STEP_TOKENS, kv_cache_gib=0.5)
    scorer = start_vllm(folder, config, max_rank=RANK, longest_tokens=512)
    torch.set_num_threads(1)  # threads that wait for each other are no cost of a host
    prepared, short = scorer.prepare(items), scorer.prepare(items[:1])
    n_steps, plan = prepared.plan.n_steps, prepared.plan
    console.print(
        f"{n_steps} steps of at most {STEP_TOKENS:,} tokens, {plan.mean_fill:.0%} full, "
        f"{plan.n_sequences / n_steps:.0f} sequences and {plan.n_slots / n_steps:.0f} scores a step"
    )
    table = Table("pass", "host ms/step", "goal", "microseconds/sequence", "ms to call one layer")
    for label, source in (("base", None), ("adapter", adapter)):
        list(scorer.score(short, source))  # the adapter's proof

        def run(plan: Any, source: Adapter | None = source) -> list[Any]:
            return list(scorer.score(plan, source))

        short_s = lowest_s(lambda run=run: run(short))
        with without_arithmetic(scorer):
            layer_s = (short_s - lowest_s(lambda run=run: run(short))) / short.plan.n_steps / TINY.n_layers
            step_s = lowest_s(lambda run=run: run(prepared)) / n_steps
            causes = profiled(lambda run=run: run(prepared), n_steps, n_causes)
        per_sequence = 1e6 * step_s * n_steps / plan.n_sequences
        table.add_row(label, f"{1000 * step_s:.2f}", f"{GOAL_MS}", f"{per_sequence:.1f}", f"{1000 * layer_s:.2f}")
        console.print(causes)
    console.print(table)
    scorer.close()


if __name__ == "__main__":
    main()
