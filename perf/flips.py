"""How many predictions bfloat16 changes against float32: same engine, items, base and adapter.

``python -m transfergrid.perf.flips [--data FOLDER] [--items 32] [--languages de,en,hi]``; some minutes on two cores.
One pass of the base and one under a random rank-32 adapter in each number format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from transfergrid.benchmarks.metrics import pick_choice
from transfergrid.config.settings import BUNDLED_MODEL, EngineConfig
from transfergrid.config.values import Dtype
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.perf.engine import BUNDLED_DATA
from transfergrid.perf.workload import TASKS, Workload, made_up_workload

DTYPES: tuple[Dtype, Dtype] = ("float32", "bfloat16")
Loglikelihoods = Sequence[tuple[float, ...]]


class Flips(NamedTuple):
    """What changes between two scorings of the same items."""

    n_items: int
    n_flips_acc: int
    n_flips_acc_norm: int
    median_diff_nats: float
    """Median over choices of the absolute difference of log-likelihoods."""
    max_diff_nats: float


def count_flips(first: Loglikelihoods, second: Loglikelihoods, lengths: Sequence[Sequence[int]]) -> Flips:
    """Compare two scorings.

    Args:
        first: Per item the log-likelihoods of its choices, nats.
        second: The same items, scored again.
        lengths: Per item the characters of its choices.
    """
    pairs = list(zip(first, second, lengths, strict=True))
    differences = [abs(a - b) for one, two, _ in pairs for a, b in zip(one, two, strict=True)]
    return Flips(
        n_items=len(pairs),
        n_flips_acc=sum(pick_choice(one) != pick_choice(two) for one, two, _ in pairs),
        n_flips_acc_norm=sum(pick_choice(one, chars) != pick_choice(two, chars) for one, two, chars in pairs),
        median_diff_nats=median(differences),
        max_diff_nats=max(differences),
    )


def score_all(workload: Workload, dtype: Dtype) -> dict[str, Loglikelihoods]:
    """Score the workload's items as ``base`` and under ``adapter`` in one number format."""
    scorer = start_vllm(Path(workload.model), EngineConfig(dtype=dtype), longest_tokens=2048)
    try:
        prepared = scorer.prepare(workload.tokenised())
        scored = {}
        for name, adapter in (("base", None), ("adapter", workload.adapter(0))):
            results = sorted(scorer.score(prepared, adapter), key=lambda result: result.index)
            scored[name] = [result.loglikelihoods_nats for result in results]
        return scored
    finally:
        scorer.close()


def compare(workload: Workload) -> Iterator[tuple[str, str, Flips]]:
    """Yield (source, task, flips) for base and adapter."""
    items = workload.items()
    per_task = len(items) // len(TASKS)
    wide, narrow = (score_all(workload, dtype) for dtype in DTYPES)
    for source in wide:
        for number, task in enumerate(TASKS):
            part = slice(number * per_task, (number + 1) * per_task)
            lengths = [item.choice_chars for item in items[part]]
            yield source, task, count_flips(wide[source][part], narrow[source][part], lengths)


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, file_okay=False), default=str(BUNDLED_DATA))
@click.option("--model", default=BUNDLED_MODEL, show_default=True)
@click.option("--items", default=32, show_default=True, help="items per cell")
@click.option("--languages", default="de,en,hi", show_default=True)
def main(data: str, model: str, items: int, languages: str) -> None:
    """Score in both formats and print the table."""
    table = Table("source", "task", "items", "flips acc", "flips acc_norm", "median diff nats", "max diff nats")
    with made_up_workload(data, model, items, languages, n_adapters=1, dtype="float32") as workload:
        for source, task, flips in compare(workload):
            counts = (str(flips.n_items), str(flips.n_flips_acc), str(flips.n_flips_acc_norm))
            table.add_row(source, task, *counts, f"{flips.median_diff_nats:.3f}", f"{flips.max_diff_nats:.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
