"""The made-up worlds of ``perf.coverage``, and one run of one of them."""

from __future__ import annotations

import numpy as np

from transfergrid.config.settings import AnalysisConfig
from transfergrid.perf.coverage.graded import GRADED_WORLDS, GradedWorld, measure_graded
from transfergrid.perf.coverage.measures import Found, measure
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
