"""Time and size of a plan of the full grid: 44 cells x 400 items x 4 choices, about 70,000 requests.

Synthetic token ids with the shape of the real prompts: a chat header, one head of question-answer pairs for every
fourth cell, contexts of 30 to 120 tokens, choices of 1 to 16 tokens. Run with ``python -m transfergrid.perf.planner``
or as a file; needs no model.
"""

from __future__ import annotations

import platform
import resource
import statistics
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.planning.planner import Plan, PlanLimits, plan_items

N_CELLS, N_ITEMS, N_CHOICES = 44, 400, 4
N_RUNS = 3
LIMITS = {
    "2,048 tokens, 2,000 blocks of 32": PlanLimits(2048, 256, 2000, 32),
    "2,048 tokens, 150 blocks of 32": PlanLimits(2048, 256, 150, 32),
    "8,192 tokens, 20,000 blocks of 16": PlanLimits(8192, 1024, 20_000, 16),
}


def make_items(rng: np.random.Generator) -> list[TokenisedItem]:
    """Return items shaped like the study's, cell after cell."""
    header = rng.integers(0, 49_000, 12).tolist()
    pairs = rng.integers(0, 49_000, 300).tolist()
    items = []
    for cell in range(N_CELLS):
        head = header + (pairs if cell % 4 == 3 else [])
        words = rng.integers(0, 49_000, 400)  # questions of one language begin alike
        for index in range(N_ITEMS):
            question = [words[rng.integers(8)], *rng.choice(words, rng.integers(30, 120))]
            choices = (tuple(rng.choice(words, rng.integers(1, 17)).tolist()) for _ in range(N_CHOICES))
            items.append(
                TokenisedItem(
                    item_id=f"{cell}-{index}",
                    context=(*head, *(int(token) for token in question)),
                    continuations=tuple(choices),
                )
            )
    return items


def time_plan(items: list[TokenisedItem], limits: PlanLimits) -> tuple[Plan, float]:
    """Return a plan and the median seconds of making it."""
    seconds = []
    for _ in range(N_RUNS):
        start = time.perf_counter()
        plan = plan_items(items, limits)
        seconds.append(time.perf_counter() - start)
    return plan, statistics.median(seconds)


def time_sums(plan: Plan) -> float:
    """Return the seconds it takes to sum all choices of one pass."""
    logprobs = np.zeros(plan.n_slots, dtype=np.float32)
    start = time.perf_counter()
    n_results = sum(1 for index in range(plan.n_steps) for _ in plan.loglikelihoods(logprobs, index))
    assert n_results == plan.n_items
    return time.perf_counter() - start


def main() -> None:
    """Print one row per limits."""
    console = Console(width=110)
    items = make_items(np.random.default_rng(0))
    table = Table(title=f"{len(items):,} items, {len(items) * N_CHOICES:,} requests; {platform.machine()}, median of 3")
    for name in (
        "limits",
        "plan_s",
        "sums_s",
        "steps",
        "sequences",
        "computed",
        "unique",
        "repeated",
        "fill",
        "peak blocks",
    ):
        table.add_column(name, justify="right")
    for name, limits in LIMITS.items():
        plan, seconds = time_plan(items, limits)
        counts = (plan.n_steps, plan.n_sequences, plan.n_computed_tokens, plan.n_unique_tokens, plan.n_repeated_tokens)
        table.add_row(
            name,
            f"{seconds:.2f}",
            f"{time_sums(plan):.2f}",
            *(f"{count:,}" for count in counts),
            f"{plan.mean_fill:.3f}",
            f"{plan.peak_blocks:,}",
        )
    console.print(table)
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
