"""Checks that need a GPU, then speed beside vLLM's public interface; ``perf/gpu_check.sh`` runs both.

``python -m transfergrid.perf.gpu checks`` and ``python -m transfergrid.perf.gpu speed --shape 0.5B``. Models have
random weights in the shape of published ones; items are made up. Runs on a CPU, too, with ``--shape tiny``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from transfergrid.config.settings import EngineConfig
from transfergrid.config.values import Dtype
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.evaluation.selftest import MIN_EFFECT, TOLERANCES, compare_ways, largest_difference, scores_of
from transfergrid.engine.interfaces import Adapter, Scorer, TokenisedItem
from transfergrid.engine.models.device import cuda_devices
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.perf.host import make_items
from transfergrid.perf.peak import GPUS, SHAPES
from transfergrid.perf.scaling import TFLOP, Decoder
from transfergrid.perf.workload import RANK, TINY, make_adapters, make_model

LONGEST = 1024
N_STOCK_ITEMS = 64


@contextmanager
def engine(folder: Path, *, is_public: bool = False, **settings: Any) -> Iterator[Any]:
    """Start the planned or the public way and end it."""
    from transfergrid.engine.scorers.launch import start_vllm
    from transfergrid.engine.scorers.public import start_public

    config = EngineConfig(**settings)
    if is_public:
        scorer: Any = start_public(folder, config, max_rank=RANK, longest_tokens=LONGEST)
    else:
        scorer = start_vllm(folder, config, max_rank=RANK, longest_tokens=LONGEST, is_selftest=True)
    try:
        yield scorer
    finally:
        scorer.close()


def seconds_of(scorer: Scorer, items: Sequence[TokenisedItem], adapters: Sequence[Adapter | None]) -> float:
    """Return the seconds per source, the next one loaded while one is scored; planning is left out."""
    prepared = scorer.prepare(items)
    start = time.perf_counter()
    for index, adapter in enumerate(adapters):
        for following in filter(None, adapters[index + 1 : index + 2]):
            scorer.prefetch(following)
        for _ in scorer.score(prepared, adapter):
            pass
    return (time.perf_counter() - start) / len(adapters)


def device_busy(scorer: Scorer, items: Sequence[TokenisedItem], adapter: Adapter | None) -> float:
    """Return the share of a profiled pass in which the device runs a kernel; the rest are gaps."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        seconds = seconds_of(scorer, items, [adapter])
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
    return float(busy / seconds)


def made_up(folder: Path, shape: Decoder, n_adapters: int) -> tuple[Path, list[Adapter]]:
    """Write a model and adapters, and return them."""
    model = make_model(folder / "model", shape)
    make_adapters(model, folder, n_adapters)
    shapes = read_linear_shapes(model)
    return model, [check_adapter(folder / str(n), shapes, name=f"a{n}") for n in range(n_adapters)]


@click.group(help=__doc__)
def main() -> None:
    """One GPU: checks and speed."""


@main.command()
@click.option("--dtype", "dtypes", multiple=True, default=("float32", "bfloat16"), show_default=True)
def checks(dtypes: tuple[Dtype, ...]) -> None:
    """All ways against transformers, sources twice, two models in a row, steps shorter than contexts."""
    items, faults = make_items(24), []
    with tempfile.TemporaryDirectory() as name:
        cases = [made_up(Path(name) / str(n), TINY._replace(n_layers=n), 2) for n in (2, 3)]
        report = compare_ways(cases[0][0], items)
        Console(width=150).print(report)
        if not report.is_passed:
            faults.append("a planned way differs from transformers")
        for dtype in dtypes:
            faults += [f"{dtype}: {fault}" for fault in repetition_faults(cases, items, dtype)]
    for fault in faults:
        click.echo(f"FAILED {fault}")
    raise SystemExit(bool(faults))


def repetition_faults(
    cases: Sequence[tuple[Path, list[Adapter]]], items: Sequence[TokenisedItem], dtype: Dtype
) -> Iterator[str]:
    """Yield what differs between passes, engines and step sizes that must give the same numbers."""
    kept = []
    for model, (one, two) in (*cases, cases[0]):
        with engine(model, dtype=dtype) as scorer:
            base, first, other, again, base_again = (
                scores_of(scorer, items, each) for each in (None, one, two, one, None)
            )
        if (largest := max(largest_difference(first, again), largest_difference(base, base_again))) > 0:
            yield f"two passes under one source differ by {largest:.1e}"
        if min(largest_difference(base, first), largest_difference(first, other)) < MIN_EFFECT:
            yield "an adapter changes nothing"
        kept.append([*base, *first])
    if (largest := largest_difference(kept[0], kept[2])) > 0:
        yield f"a model scores otherwise after another one, by {largest:.1e}"
    model, (one, _) = cases[0]
    with engine(model, dtype=dtype, token_budget=64) as scorer:  # contexts of 70 to 180 tokens
        small = [*scores_of(scorer, items, None), *scores_of(scorer, items, one)]
    if (largest := largest_difference(small, kept[0])) > TOLERANCES[dtype]:
        yield f"steps of 64 tokens differ by {largest:.1e}"


@main.command()
@click.option("--shape", type=click.Choice([*SHAPES, "tiny"]), required=True)
@click.option("--items", default=4000, show_default=True)
@click.option("--adapters", "counts", multiple=True, type=int, default=(4, 44), show_default=True)
def speed(shape: str, items: int, counts: tuple[int, ...]) -> None:
    """Items/s, share of the peak, gaps; vLLM's own way on a part of the items in the same run."""
    decoder, console = {**SHAPES, "tiny": TINY}[shape], Console(width=110)
    names = [device.name for device in cuda_devices()[:1]] or ["CPU"]
    peak = next((gpu.peak_tflops for name, gpu in GPUS.items() if name.split()[0] in names[0]), None)
    with tempfile.TemporaryDirectory() as name:
        model, adapters = made_up(Path(name), decoder, max(counts))
        asked, facts = make_items(items), read_model_facts(model)
        table = Table("way", "items", "seconds a source", "items/s", "share of peak", "device busy", title=names[0])
        with engine(model) as scorer:
            plan = scorer.prepare(asked).plan
            n_rows = sum(len(set(step.score_rows.tolist())) for step in plan.steps)
            flop = 2 * (
                plan.n_computed_tokens * facts.n_layer_parameters + n_rows * facts.hidden_size * facts.vocab_size
            )
            seconds_of(scorer, asked[:N_STOCK_ITEMS], [None, adapters[0]])  # warm
            for label, sources in (("base", [None]), *((f"{n} adapters", adapters[:n]) for n in counts)):
                seconds = seconds_of(scorer, asked, sources)
                share = "" if peak is None else f"{flop / seconds / (peak * TFLOP):.1%}"
                busy = f"{device_busy(scorer, asked, sources[0]):.0%}" if peak else ""
                row = (f"{len(asked)}", f"{seconds:.3f}", f"{len(asked) / seconds:.0f}", share, busy)
                table.add_row(f"planned, {label}", *row)
        with engine(model, vllm_args={"hf_overrides": {"head_dtype": "model"}}) as scorer:  # what float32 there costs
            seconds_of(scorer, asked[:N_STOCK_ITEMS], [None])
            seconds = seconds_of(scorer, asked, [None])
            row = (f"{len(asked)}", f"{seconds:.3f}", f"{len(asked) / seconds:.0f}")
            table.add_row("planned, base, vocabulary projection in the model's format", *row)
        with engine(model, is_public=True) as scorer:
            part = asked[:N_STOCK_ITEMS]
            for label, source in (("base", None), ("one adapter", adapters[0])):
                seconds_of(scorer, part[:4], [source])
                seconds = seconds_of(scorer, part, [source])
                table.add_row(f"vLLM's own, {label}", str(len(part)), f"{seconds:.3f}", f"{len(part) / seconds:.0f}")
        console.print(table)


if __name__ == "__main__":
    main()
