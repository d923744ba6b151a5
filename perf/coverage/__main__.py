"""How often the intervals and labels of the analysis hold the truth, in made-up runs whose truth is known.

``python -m transfergrid.perf.coverage [--runs N] [--world NAME] [--seed S]``
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from transfergrid.config.settings import AnalysisConfig
from transfergrid.perf.coverage.graded import GRADED_WORLDS, GradedWorld, measure_graded
from transfergrid.perf.coverage.measures import Found, Line, measure, summarise
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


def run_world(world: World | GradedWorld, n_runs: int, seed: int) -> list[Line]:
    """Draw runs, build their tables and compare."""
    generator = np.random.default_rng([seed, *world.name.encode()])
    found: list[Found] = []
    for _ in range(n_runs):
        if isinstance(world, GradedWorld):
            found.extend(measure_graded(world, generator))
        elif world in ADAPTIVE:
            found.extend(stopping(world, generator, fixed_items=FIXED_ITEMS.get(world.name)))
        else:
            found.extend(measure(world, draw_run(world, generator), SETTINGS))
    return summarise(found)


def main() -> None:
    """Print a table for every world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="made-up runs of 44 x 44; four times as many of 6 x 6")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument(
        "--world", action="append", choices=[world.name for world in (*WORLDS, *ADAPTIVE, *GRADED_WORLDS)]
    )
    arguments = parser.parse_args()
    console = Console(width=max(100, Console().width))
    for world in (*WORLDS, *ADAPTIVE, *GRADED_WORLDS):
        if arguments.world and world.name not in arguments.world:
            continue
        start = time.perf_counter()
        n_runs = arguments.runs * (1 if isinstance(world, World) and len(world.cells) > 6 else 4)
        lines = run_world(world, n_runs, arguments.seed)
        title = f"{world.name}: {n_runs} runs, {time.perf_counter() - start:.0f} s"
        table = Table("statement", "held", "said", "truth", "width", title=title)
        for line in lines:
            held = "" if line.held is None else f"{line.held:.1%}"
            table.add_row(
                line.what,
                held,
                f"{line.mean:.3f}",
                f"{line.truth:.3f}" if held else "",
                f"{line.width:.2f}" if held else "",
            )
        console.print(table)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
