"""How often the intervals and labels of the analysis hold the truth, in made-up runs whose truth is known.

``python -m transfergrid.perf.coverage [--runs N] [--world NAME] [--seed S] [--processes P]``
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial

from rich.console import Console
from rich.table import Table

from transfergrid.perf.coverage.graded import GradedWorld
from transfergrid.perf.coverage.measures import summarise
from transfergrid.perf.coverage.runs import ALL_WORLDS, run_once
from transfergrid.perf.coverage.world import World


def run_world(name: str, n_runs: int, seed: int, pool: Executor) -> Table:
    """Return a table of what many runs of a world say."""
    start = time.perf_counter()
    found = [each for of_run in pool.map(partial(run_once, name, seed), range(n_runs)) for each in of_run]
    title = f"{name}: {n_runs} runs, {time.perf_counter() - start:.0f} s"
    table = Table("statement", "held", "+/-", "said", "truth", "width", title=title)
    for line in summarise(found):
        interval = [""] * 4
        if line.held is not None:
            interval = [f"{line.held:.1%}", f"{line.held_se:.1%}", f"{line.truth:.3f}", f"{line.width:.2f}"]
        table.add_row(line.what, *interval[:2], f"{line.mean:.3f}", *interval[2:])
    return table


def main() -> None:
    """Print a table for every world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="made-up runs of 44 x 44; four times as many of others")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--world", action="append", choices=list(ALL_WORLDS), help="may be given more than once")
    arguments = parser.parse_args()
    console = Console(width=max(100, Console().width))
    # a process a core: what they compute is too small for threads
    os.environ |= dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        for name in arguments.world or ALL_WORLDS:
            console.print(run_world(name, arguments.runs * _repeats(ALL_WORLDS[name]), arguments.seed, pool))
            sys.stdout.flush()


def _repeats(world: World | GradedWorld) -> int:
    return 1 if isinstance(world, World) and len(world.cells) > 6 else 4


if __name__ == "__main__":
    main()
