"""The engine beside its peers, in one run on one machine: ratios and medians.

``python -m transfergrid.perf.engine [--data FOLDER] [--items 5] [--languages de,en,hi]``; about ten minutes on two
cores. Rank-32 adapters on seven projections; ARC, TruthfulQA and MMLU kinds under the chat template. The limit is
unique tokens x 2 x parameters of the linear layers + scored rows x 2 x vocabulary x width, over the rate of a large
matrix product in the same number format, measured between the passes.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from transfergrid.config.settings import BUNDLED_MODEL
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.perf.engine_sides import FEW_ADAPTERS
from transfergrid.perf.workload import Workload, made_up_workload

BUNDLED_DATA = Path(__file__).parents[1] / "benchmarks_data"
SIDES = ("ours", "lm-eval", "stock-base", "ours-part", "stock-adapter")
GOALS = {
    "adapter pass / limit": "at most 1.6",
    "base pass / limit": "at most 1.6",
    "adapter pass / base pass": "at most 1.15",
    "items/s against lm-evaluation-harness, merged adapter": "at least 5",
    "items/s against stock vLLM, base": "at least 10",
    "items/s against stock vLLM, one adapter": "at least 30",
    "seconds per adapter, many / 4": "at most 1",
    "share outside tensor operations": "under 0.05",
    "planning / pass": "under 0.05",
    "tokens computed / unique": "1",
}


def run_side(name: str, workload: Workload) -> dict[str, Any]:
    """Run one side in a process of its own and return what it measured."""
    command = [sys.executable, "-m", "transfergrid.perf.engine_sides", name, json.dumps(workload.as_json())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"side {name!r} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured_ratios(sides: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the figures that the goals are about; sides that did not run leave theirs out."""
    ours = sides["ours"]
    base_s, adapter_s = median(ours["base_s"]), median(ours["adapter_s"])
    limit_s = ours["flop"] / median(ours["gemm_flop_per_s"])
    ratios = {
        "base pass / limit": base_s / limit_s,
        "adapter pass / limit": adapter_s / limit_s,
        "adapter pass / base pass": median(a / b for a, b in zip(ours["adapter_s"], ours["base_s"], strict=True)),
        "seconds per adapter, many / 4": ours["many_adapters_s"] / ours["few_adapters_s"],
        "share outside tensor operations": ours["python_share"]["adapter"],
        "planning / pass": ours["prepare_s"] / adapter_s,
        "tokens computed / unique": ours["n_computed_tokens"] / ours["n_unique_tokens"],
    }
    for goal, name, seconds in (
        ("items/s against lm-evaluation-harness, merged adapter", "lm-eval", adapter_s),
        ("items/s against stock vLLM, base", "stock-base", base_s),
        (
            "items/s against stock vLLM, one adapter",
            "stock-adapter",
            median(sides.get("ours-part", {"seconds": [0]})["seconds"]),
        ),
    ):
        if name in sides and seconds:
            ratios[goal] = median(sides[name]["seconds"]) / seconds
    return ratios


def show(console: Console, sides: dict[str, dict[str, Any]], dtype: str) -> None:
    """Print what was run, the figures behind the ratios, and the ratios beside their goals."""
    ours = sides["ours"]
    rates = [rate / 1e9 for rate in ours["gemm_flop_per_s"]]
    console.print(
        f"{platform.processor() or platform.machine()}; {dtype}; {ours['n_items']} items, "
        f"{ours['n_repeated_tokens']:,} tokens with repeats, {ours['n_unique_tokens']:,} unique, "
        f"{ours['n_computed_tokens']:,} computed, {ours['n_rows']:,} scored rows; GEMM {min(rates):.0f} to "
        f"{max(rates):.0f} GFLOP/s, median {median(rates):.0f}; engine start {ours['start_s']:.1f} s"
    )
    seconds = Table(
        "side", "median s", "lowest s", "highest s", "items", "items/s", "peak GiB", title="Seconds net of start-up"
    )
    for name, values, count, peak in _timings(sides):
        seconds.add_row(
            name,
            *(f"{value:.2f}" for value in (median(values), min(values), max(values))),
            str(count),
            f"{count / median(values):.2f}",
            f"{peak / 2**30:.2f}",
        )
    console.print(seconds)
    memory = Table("peak memory of our engine after", "GiB")
    for name, value in ours["memory_bytes"].items():
        memory.add_row(name, f"{value / 2**30:.2f}")
    console.print(memory)
    table = Table("figure", "measured", "goal")
    for name, value in measured_ratios(sides).items():
        table.add_row(name, f"{value:.3f}", GOALS[name])
    console.print(table)
    if "lm-eval" in sides:
        pairs = zip(ours["loglikelihoods"], sides["lm-eval"]["loglikelihoods"], strict=True)
        console.print(f"largest difference to lm-evaluation-harness: {max(abs(a - b) for a, b in pairs):.1e} nats")


def _timings(sides: dict[str, dict[str, Any]]) -> list[tuple[str, list[float], int, float]]:
    """Return (name, seconds, items, peak bytes) per row of the table."""
    ours = sides["ours"]
    rows = [
        ("ours, base", ours["base_s"], ours["n_items"], ours["peak_bytes"]),
        ("ours, one adapter", ours["adapter_s"], ours["n_items"], ours["peak_bytes"]),
    ]
    names = {
        "lm-eval": "lm-evaluation-harness hf, merged",
        "stock-base": "stock vLLM, base",
        "ours-part": "ours, one adapter, 1 item per cell",
        "stock-adapter": "stock vLLM, one adapter, 1 item per cell",
    }
    rows += [
        (names[name], side["seconds"], side["n_items"], side["peak_bytes"])
        for name, side in sides.items()
        if name in names
    ]
    return rows


@click.command(help=__doc__)
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False), default=str(BUNDLED_DATA), help="TASK/LANG/test.jsonl"
)
@click.option("--model", default=BUNDLED_MODEL, show_default=True)
@click.option("--items", default=5, show_default=True, help="items per cell")
@click.option("--languages", default="de,en,hi", show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--adapters", default=44, show_default=True, help="adapters of the many-adapters run")
@click.option("--sides", default=",".join(SIDES), show_default=True)
def main(  # noqa: PLR0913 - one parameter per option
    data: str, model: str, items: int, languages: str, repeats: int, adapters: int, sides: str
) -> None:
    """Run the sides one after the other and print the tables."""
    console = Console(width=110)
    more = {"dtype": resolve_dtype("auto"), "repeats": repeats, "many_adapters": adapters}
    n_adapters = 1 + FEW_ADAPTERS + adapters
    with made_up_workload(data, model, items, languages, n_adapters=n_adapters, **more) as workload:
        results = {name: run_side(name, workload) for name in sides.split(",")}
    show(console, results, workload.dtype)


if __name__ == "__main__":
    main()
