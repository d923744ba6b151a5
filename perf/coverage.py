"""How often the intervals of ``grid recommend`` hold the truth, in made-up runs whose truth is known.

``python -m transfergrid.perf.coverage [--runs N] [--seed S]`` draws base answers and adapters' answers item by item,
asks for recommendations and compares every interval and probability with the true effect.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.table import Table

from transfergrid.analysis.records import PAIR, ItemBlock, Transfer
from transfergrid.analysis.terminal.recommendation import recommend_from
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import LANGUAGES, TASKS, Cell
from transfergrid.store.scores import with_regime

FloatArray = npt.NDArray[np.float64]

N_ASKED = 6
"""Targets of a made-up run for which recommendations are asked."""
SURE = 0.95
RIGHT_IF_HARD = 0.05
"""Probability of a right answer to a hard item, of a wrong one to an easy item; half of the items are hard."""


@dataclass(frozen=True, slots=True)
class World:
    """What a made-up run is drawn from; standard deviations of true effects in pp."""

    name: str
    n_tasks: int = 4
    n_languages: int = 6
    n_items: int = 400
    n_models: int = 1
    source_sd: float = 0.0
    target_sd: float = 0.0
    pair_sd: float = 0.0
    answered_anew: float | None = 1.0
    """Share of items to which an adapter's answer is drawn anew, others are the base's; None: any share, by adapter."""
    repeats: int = 1
    """Runs for each that is asked for: small grids need more."""

    @property
    def cells(self) -> list[Cell]:
        """Cells, all of which are sources and targets."""
        return [Cell(task, language) for task in TASKS[: self.n_tasks] for language in LANGUAGES[: self.n_languages]]


EFFECTS = {"source_sd": 1.0, "target_sd": 1.5, "pair_sd": 0.7}
WORLDS = (
    World("no adapter has any effect"),
    World("the same, 9 cells", n_tasks=3, n_languages=3, repeats=3),
    World("no effect, adapters that change from none to all answers", answered_anew=None),
    World("effects: source 1, target 1.5, pair 0.7", **EFFECTS),
    World("the same, 9 cells", n_tasks=3, n_languages=3, repeats=3, **EFFECTS),
    World("the same, 12 cells, 3 models", n_tasks=3, n_languages=4, n_models=3, **EFFECTS),
    World("effects 0.2, 0.3, 0.2; 2 % anew", source_sd=0.2, target_sd=0.3, pair_sd=0.2, answered_anew=0.02),
    World(
        "effects 0.5, 1, 1; 10 % anew, 12 cells, 32 items",
        n_tasks=3,
        n_languages=4,
        n_items=32,
        source_sd=0.5,
        target_sd=1.0,
        pair_sd=1.0,
        answered_anew=0.1,
        repeats=2,
    ),
)


class Drawn(NamedTuple):
    """A made-up run."""

    transfer: Transfer
    truth_pp: FloatArray
    """Shape [sources, targets]."""


def draw_run(world: World, generator: np.random.Generator) -> Drawn:
    """Draw the answers of base and adapters to all items."""
    n = len(world.cells)
    truth = (
        world.source_sd * generator.normal(size=(n, 1))
        + world.target_sd * generator.normal(size=(1, n))
        + world.pair_sd * generator.normal(size=(n, n))
    )
    anew = generator.random(n) if world.answered_anew is None else np.full(n, world.answered_anew)
    differences = np.stack([_differences(world, truth, anew, generator) for _ in range(world.n_models)])
    sides = [(cell.task, cell.language) for cell in world.cells]
    models = [f"m{place}" for place in range(world.n_models)]
    keys = [(model, *source, *target) for model in models for source in sides for target in sides]
    rows = with_regime(pl.DataFrame(keys, schema=["model", *PAIR], orient="row")).with_columns(
        delta_pp=pl.Series(100 * differences.mean(axis=3).ravel()),
        se_pp=pl.Series(100 * differences.std(axis=3, ddof=1).ravel() / world.n_items**0.5),
    )
    return Drawn(Transfer(rows, rows, tuple(_blocks(rows, differences)), ()), truth)


def _differences(world: World, truth: FloatArray, anew: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Return right answers of the adapters minus the base's, -1, 0 or 1, shape [sources, targets, items]."""
    n, shape = len(truth), (len(truth), len(truth), world.n_items)
    is_hard = generator.random((n, world.n_items)) < 0.5
    chance = np.where(is_hard, RIGHT_IF_HARD, 1 - RIGHT_IF_HARD)
    base = generator.random((n, world.n_items)) < chance
    answers = np.where(generator.random(shape) < anew[:, None, None], generator.random(shape) < chance, base)
    # half of the answers are right: making 2 |e| of them right (or wrong) moves the mean by e
    turned = generator.random(shape) < np.abs(truth[:, :, None]) / 50
    answers = np.where(turned, truth[:, :, None] > 0, answers)
    moved: FloatArray = answers.astype(np.float64) - base
    return moved


def _blocks(rows: pl.DataFrame, differences: FloatArray) -> Iterator[ItemBlock]:
    flat = differences.reshape(rows.height, -1).astype(np.float32)
    item_ids = tuple(f"q{item:03d}" for item in range(flat.shape[1]))
    for task in rows["target_task"].unique().sort():
        chosen = (rows["target_task"] == task).to_numpy()
        part, keys = flat[chosen], rows.filter(chosen).select("model", *PAIR)
        yield ItemBlock(task, keys, item_ids, part, np.ones(part.shape, dtype=np.bool_))


class Calibration(NamedTuple):
    """Shares over all recommendations, 0..1."""

    held: float
    """Intervals that hold the true effect."""
    sure: float
    """P(help) above `SURE`."""
    sure_and_right: float
    """Of those, effects that help; NaN where there are none."""
    rmse_pp: float
    observed_rmse_pp: float
    """The same of the deltas as observed."""


def calibrate(world: World, n_runs: int, seed: int) -> Calibration:
    """Ask for recommendations in made-up runs and compare them with the truth."""
    generator = np.random.default_rng(seed)
    place = {cell: index for index, cell in enumerate(world.cells)}
    found = []
    for _ in range(n_runs * world.repeats):
        run = draw_run(world, generator)
        for target in world.cells[:: max(1, len(world.cells) // N_ASKED)]:
            table = recommend_from(run.transfer, AnalysisConfig(), target=target).table.drop_nulls("estimate_pp")
            sources = [place[Cell(*pair)] for pair in table.select("source_task", "source_language").iter_rows()]
            found.append(table.with_columns(truth=pl.Series(run.truth_pp[sources, place[target]])))
    return _calibration(pl.concat(found))


def _calibration(table: pl.DataFrame) -> Calibration:
    truth, sure = pl.col("truth"), pl.col("p_help") > SURE
    values = table.select(
        truth.is_between("low_pp", "high_pp").mean().alias("held"),
        sure.mean().alias("sure"),
        (truth > 0).filter(sure).mean().alias("right"),
        ((pl.col("estimate_pp") - truth) ** 2).mean().sqrt().alias("rmse"),
        ((pl.col("observed_pp") - truth) ** 2).mean().sqrt().alias("observed"),
    ).row(0)
    return Calibration(*(float("nan") if value is None else value for value in values))


def main() -> None:
    """Print a line for every world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="made-up runs a line; two or three times as many if small")
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    columns = ("held", f"P(help) > {SURE}", "of those help", "rmse pp", "of observed")
    title = f"95 % intervals, seed {arguments.seed}"
    table = Table("24 cells, 400 items, one model, unless said", *columns, title=title)
    for world in WORLDS:
        found = calibrate(world, arguments.runs, arguments.seed)
        right = "-" if np.isnan(found.sure_and_right) else f"{found.sure_and_right:.0%}"
        errors = (f"{found.rmse_pp:.2f}", f"{found.observed_rmse_pp:.2f}")
        table.add_row(world.name, f"{found.held:.1%}", f"{found.sure:.1%}", right, *errors)
    Console(width=max(100, Console().width)).print(table)


if __name__ == "__main__":
    main()
