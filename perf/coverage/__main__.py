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

import numpy as np
from rich.console import Console
from rich.table import Table

from transfergrid.config.settings import AnalysisConfig
from transfergrid.perf.coverage.graded import GRADED_WORLDS, GradedWorld, measure_graded
from transfergrid.perf.coverage.measures import Found, measure, summarise
from transfergrid.perf.coverage.stopping import stopping
from transfergrid.perf.coverage.world import NULL, SMALL, World, draw_run

WORLDS = (
    World(name="44 x 44, effects"),
    World(name="44 x 44, nothing", **NULL),
    World(name="44 x 44, 32 items", n_items=32),
    World(name="44 x 44, 3 seeds of sd 2", n_seeds=3, seed_sd=2.0),
    World(name="44 x 44, nothing, 3 seeds of sd 4", n_seeds=3, seed_sd=4.0, **NULL),
    World(name="44 x 44, 3 seeds, items redrawn", n_seeds=3, seed_sd=2.0, redrawn_items=True),
    World(name="44 x 44, 3 models", n_models=3, model_target_sd=0.6),
    World(name="44 x 44, unequal adapters", unequal=True),
    World(name="44 x 44, 2 % change", churn=0.02),
    World(name="44 x 44, tasks interact", task_pair_sd=1.0),
    World(name="6 x 6, effects", **SMALL),
    World(name="6 x 6, nothing", **NULL, **SMALL),
    World(name="6 x 6, 32 items", n_items=32, **SMALL),
    World(name="6 x 6, nothing, 3 seeds of sd 2", n_seeds=3, seed_sd=2.0, **NULL, **SMALL),
)


ADAPTIVE = (
    World(name="adaptive, 44 x 44, 400 items"),
    World(name="adaptive, 44 x 44, 400 items, nothing", **NULL),
    World(name="adaptive, 44 x 44, 400 items, 2 % change", churn=0.02),
    World(name="adaptive, 44 x 44, 400 items, unequal adapters", unequal=True),
    World(name="adaptive, 44 x 44, up to 1,000 items against 400", n_items=1000),
    World(name="adaptive, 6 x 6, 400 items", **SMALL),
)
FIXED_ITEMS = {"adaptive, 44 x 44, up to 1,000 items against 400": 400}

SETTINGS = AnalysisConfig(bootstrap_resamples=400)
"""Fewer resamples than by default, since every run is analysed anew."""


ALL_WORLDS = {world.name: world for world in (*WORLDS, *ADAPTIVE, *GRADED_WORLDS)}


def run_once(name: str, seed: int, run: int) -> list[Found]:
    """Draw one run of a world, build its tables and compare."""
    world = ALL_WORLDS[name]
    generator = np.random.default_rng([seed, run, *name.encode()])
    if isinstance(world, GradedWorld):
        return list(measure_graded(world, generator))
    if world in ADAPTIVE:
        return list(stopping(world, generator, fixed_items=FIXED_ITEMS.get(name)))
    return list(measure(world, draw_run(world, generator), SETTINGS))


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
