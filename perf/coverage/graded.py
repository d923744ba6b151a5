"""Made-up scores of choices whose graded transfer is known, and what the tables say of it.

An item's choices have lasting scores; base and adapters add changes of one distribution, so without a gain at the gold
they can change places, but for a temperature of every adapter between 3 / 4 and 5 / 4 of the base's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from scipy.interpolate import CubicSpline

from transfergrid.analysis.graded.groups import graded_of_groups, graded_rows
from transfergrid.analysis.graded.temperature import base_temperature, match_temperature, probabilities, shifted
from transfergrid.analysis.records import EVERY_REGIME, PAIR, ItemBlock, in_regime
from transfergrid.analysis.statistics.group_draws import Group
from transfergrid.analysis.tables.recommendation import estimate_pairs, noisy_pairs
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import BASE, LANGUAGES, TASKS, Cell, Regime, Source
from transfergrid.perf.coverage.measures import Found, said_false
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import SCORE_SCHEMA, source_columns

N_CHOICES = 4
CHANGE = 0.8
"""Standard deviation of what an adapter changes in a choice's score, that of the lasting scores being 2."""
_N_TRUTH = 50_000
_GAINS = np.linspace(-1.5, 1.5, 7)
SETTINGS = AnalysisConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedWorld:
    """What made-up scores are drawn from; gains are what adapters add to the gold choice's score, nats."""

    name: str
    n_items: int
    n_seeds: int = 1
    n_tasks: int = 1
    n_languages: int = 10
    """Of the sources of a task."""
    n_targets: int = 2
    """Languages of a task that are scored."""
    gain: float = 0.0
    """Mean over pairs."""
    source_sd: float = 0.0
    target_sd: float = 0.0
    pair_sd: float = 0.0

    @property
    def sources(self) -> list[Cell]:
        """Cells that adapters are trained on."""
        return [Cell(task, language) for task in TASKS[: self.n_tasks] for language in LANGUAGES[: self.n_languages]]

    @property
    def targets(self) -> list[Cell]:
        """Cells that are scored."""
        return [Cell(task, language) for task in TASKS[: self.n_tasks] for language in LANGUAGES[: self.n_targets]]


_GRID = {"n_tasks": 3, "n_languages": 4, "n_targets": 4, "n_items": 200}
GRADED_WORLDS = (
    GradedWorld(name="graded, nothing, 400 items", n_items=400),
    GradedWorld(name="graded, nothing, 32 items", n_items=32),
    GradedWorld(name="graded, nothing, 10 items", n_items=10),
    GradedWorld(name="graded, nothing, 400 items, 3 seeds", n_items=400, n_seeds=3),
    GradedWorld(name="graded, gain, 400 items", n_items=400, gain=0.3),
    GradedWorld(name="graded, gain, 32 items", n_items=32, gain=0.3),
    GradedWorld(name="graded, gain, 400 items, 3 seeds", n_items=400, n_seeds=3, gain=0.3),
    GradedWorld(name="graded, 12 x 12, nothing", **_GRID),
    GradedWorld(name="graded, 12 x 12, effects", gain=0.1, source_sd=0.04, target_sd=0.1, pair_sd=0.05, **_GRID),
)


def measure_graded(world: GradedWorld, generator: np.random.Generator) -> Iterator[Found]:
    """Draw one run, read it as any run is read, and yield what is said of its pairs, regimes and recommendations."""
    gains = draw_gains(world, generator)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        run.scores.mkdir(parents=True)
        draw_scores(world, gains, generator).write_parquet(run.scores / "all.parquet")
        transfer = read_transfer(run)
    sources, targets = (
        {(cell.task, cell.language): n for n, cell in enumerate(cells)} for cells in (world.sources, world.targets)
    )
    rows = transfer.rows.filter(pl.col("regime") != Regime.MT_ML.value)
    places = np.array([(sources[pair[:2]], targets[pair[2:]]) for pair in rows.select(PAIR).iter_rows()])
    truth = true_graded_pp()(gains[places[:, 0], places[:, 1]])
    low, high, estimate = (rows[f"graded_pp{end}"].to_numpy() for end in ("_low", "_high", ""))
    yield Found("graded_pp", low, high, truth, estimate)
    yield said_false("graded_p <= .05", (rows["graded_p"] <= 0.05).mean())
    yield said_false("p_value of accuracy <= .05", (rows["p_value"] <= 0.05).mean())
    yield said_false("some graded_q <= .05", float((rows["graded_q"] <= 0.05).any()))
    yield said_false("graded_p_below_0", rows["graded_p_below_0"].mean())
    if world.n_tasks > 1:
        yield from _of_table(world, rows.with_columns(truth=pl.Series(truth)), transfer.graded_items)


def _of_table(world: GradedWorld, rows: pl.DataFrame, items: tuple[ItemBlock, ...]) -> Iterator[Found]:
    """Yield means of regimes over sources and targets like these, and what is recommended."""
    spread = np.sqrt(world.source_sd**2 + world.target_sd**2 + world.pair_sd**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    mean = float(true_graded_pp()(world.gain + spread * nodes) @ weights / weights.sum())
    numbered = rows.with_row_index("row")
    groups = [
        Group(regime, "all", "all", numbered.filter(in_regime(regime))["row"].to_numpy().astype(np.intp))
        for regime in EVERY_REGIME
        if regime != Regime.MT_ML.value
    ]
    found = graded_of_groups(rows, groups, items, SETTINGS)
    for group, row in zip(groups, found.iter_rows(named=True), strict=True):
        ends = (row[f"graded_mean_pp{end}"] for end in ("_low", "_high"))
        yield Found(
            f"graded_mean_pp, {group.regime}", *(np.array([each]) for each in (*ends, mean, row["graded_mean_pp"]))
        )
    table = estimate_pairs(noisy_pairs(graded_rows(rows), items), SETTINGS)
    joined = table.join(rows.select(*PAIR, "truth"), on=list(PAIR), validate="1:1", maintain_order="left")
    yield Found(
        "graded_estimate_pp", *(joined[name].to_numpy() for name in ("low_pp", "high_pp", "truth", "estimate_pp"))
    )


def draw_gains(world: GradedWorld, generator: np.random.Generator) -> np.ndarray:
    """Return what every adapter adds to the gold choice's score, shape [sources, targets], nats."""
    shape = (len(world.sources), len(world.targets))
    spreads = ((world.source_sd, (shape[0], 1)), (world.target_sd, (1, shape[1])), (world.pair_sd, shape))
    return world.gain + sum(sd * generator.normal(size=size) for sd, size in spreads) + np.zeros(shape)


def draw_scores(world: GradedWorld, gains: np.ndarray, generator: np.random.Generator) -> pl.DataFrame:
    """Return item rows of a base and all adapters in SCORE_SCHEMA; the languages of a task do not share their items."""
    frames = []
    for place, target in enumerate(world.targets):
        gold = generator.integers(0, N_CHOICES, world.n_items)
        lasting = _lasting(gold, generator)
        frames.append(_rows(target, None, None, lasting + _change(gold, generator), gold))
        for number, source in enumerate(world.sources):
            of_source = _change(gold, generator)
            for seed in range(world.n_seeds):
                own = _change(gold, generator)
                change = of_source if world.n_seeds == 1 else 0.5**0.5 * (of_source + own)
                change[np.arange(world.n_items), gold] += gains[number, place]
                heat = np.exp(generator.uniform(np.log(0.75), np.log(1.25)))
                frames.append(_rows(target, seed, source, heat * (lasting + change), gold))
    return pl.concat(frames)


def _lasting(gold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    scores = 2 * generator.normal(size=(len(gold), N_CHOICES))
    scores[np.arange(len(gold)), gold] += 1
    return scores


def _change(gold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return CHANGE * generator.normal(size=(len(gold), N_CHOICES))


def _rows(target: Cell, seed: int | None, source: Cell | None, scores: np.ndarray, gold: np.ndarray) -> pl.DataFrame:
    pred = scores.argmax(axis=1)
    constant = {
        **source_columns(BASE if source is None else Source.of(source)),
        "model": "made-up-1B",
        "seed": seed,
        "target_task": target.task,
        "target_language": target.language,
        "n_truncated_tokens": 0,
        "primary_metric": "acc",
        "run_key": "",
        "unscored_reason": None,
        "output": None,
    }
    frame = pl.DataFrame(
        {
            "item_id": [f"q{item:06d}" for item in range(len(gold))],
            "gold": gold,
            "pred": pred,
            "pred_norm": pred,
            "value": (pred == gold).astype(float),
            "loglikelihoods_nats": pl.Series(scores - 30).cast(pl.List(pl.Float64)),
            "choice_chars": pl.Series(np.full(scores.shape, 20)).cast(pl.List(pl.Int32)),
        }
    ).with_columns(pl.lit(value).alias(name) for name, value in constant.items())
    return frame.select(pl.col(name).cast(dtype) for name, dtype in SCORE_SCHEMA.items())


@cache
def true_graded_pp() -> CubicSpline:
    """Return graded transfer over all items there could be as a function of the gain, from one adapter on very many."""
    generator = np.random.default_rng(0)
    gold = generator.integers(0, N_CHOICES, _N_TRUTH)
    lasting = _lasting(gold, generator)
    base, adapter = ((lasting + _change(gold, generator)).T for _ in range(2))
    inverse = 1 / base_temperature(base, gold)
    of_base = probabilities(shifted(base), gold, inverse)
    sharpness, every = np.array([of_base.top.mean()]), np.ones((1, len(gold)), dtype=np.bool_)
    found = []
    for gain in _GAINS:
        changed = adapter.copy()
        changed[gold, np.arange(len(gold))] += gain
        matched = match_temperature(shifted(changed)[:, None], every, sharpness=sharpness, inverse=inverse)
        found.append(100 * (probabilities(shifted(changed), gold, matched[0]).gold - of_base.gold).mean())
    # without a gain both sides are drawn alike, so that nothing is transferred
    return CubicSpline(_GAINS, np.array(found) - found[len(found) // 2])
