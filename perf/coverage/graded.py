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

from transfergrid.analysis.graded.temperature import base_temperature, match_temperature, probabilities, shifted
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.grid import BASE, LANGUAGES, Cell, Source
from transfergrid.perf.coverage.measures import Found, said_false
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import SCORE_SCHEMA, source_columns

N_CHOICES = 4
CHANGE = 0.8
"""Standard deviation of what an adapter changes in a choice's score, that of the lasting scores being 2."""
_N_TRUTH = 400_000
TASK = "global_mmlu"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedWorld:
    """What made-up scores are drawn from."""

    name: str
    n_items: int
    n_seeds: int = 1
    n_sources: int = 10
    n_targets: int = 2
    gain: float = 0.0
    """What adapters add to the gold choice's score."""


GRADED_WORLDS = (
    GradedWorld(name="graded, nothing, 400 items", n_items=400),
    GradedWorld(name="graded, nothing, 32 items", n_items=32),
    GradedWorld(name="graded, nothing, 10 items", n_items=10),
    GradedWorld(name="graded, nothing, 400 items, 3 seeds", n_items=400, n_seeds=3),
    GradedWorld(name="graded, gain, 400 items", n_items=400, gain=0.3),
    GradedWorld(name="graded, gain, 32 items", n_items=32, gain=0.3),
    GradedWorld(name="graded, gain, 400 items, 3 seeds", n_items=400, n_seeds=3, gain=0.3),
)


def measure_graded(world: GradedWorld, generator: np.random.Generator) -> Iterator[Found]:
    """Draw one run, read it as any run is read, and yield what is said of its pairs."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        run.scores.mkdir(parents=True)
        draw_scores(world, generator).write_parquet(run.scores / "all.parquet")
        rows = read_transfer(run).rows.filter(pl.col("regime") != "MT-ML")
    truth = np.full(rows.height, true_graded_pp(world.gain) if world.gain else 0.0)
    low, high, estimate = (rows[f"graded_pp{end}"].to_numpy() for end in ("_low", "_high", ""))
    yield Found("graded_pp", low, high, truth, estimate)
    yield said_false("graded_p <= .05", (rows["graded_p"] <= 0.05).mean())  # type: ignore[arg-type]
    yield said_false("p_value of accuracy <= .05", (rows["p_value"] <= 0.05).mean())  # type: ignore[arg-type]
    yield said_false("some graded_q <= .05", float((rows["graded_q"] <= 0.05).any()))
    yield said_false("graded_p_below_0", rows["graded_p_below_0"].mean())  # type: ignore[arg-type]


def draw_scores(world: GradedWorld, generator: np.random.Generator) -> pl.DataFrame:
    """Return item rows of a base and all adapters in SCORE_SCHEMA."""
    languages = LANGUAGES[: world.n_sources]
    frames = []
    for language in languages[: world.n_targets]:
        gold = generator.integers(0, N_CHOICES, world.n_items)
        lasting = _lasting(gold, generator)
        frames.append(_rows(language, None, None, lasting + _change(gold, generator), gold))
        for source in languages:
            of_source = _change(gold, generator)
            for seed in range(world.n_seeds):
                own = _change(gold, generator)
                change = of_source if world.n_seeds == 1 else 0.5**0.5 * (of_source + own)
                change[np.arange(world.n_items), gold] += world.gain
                heat = np.exp(generator.uniform(np.log(0.75), np.log(1.25)))
                frames.append(_rows(language, seed, source, heat * (lasting + change), gold))
    return pl.concat(frames)


def _lasting(gold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    scores = 2 * generator.normal(size=(len(gold), N_CHOICES))
    scores[np.arange(len(gold)), gold] += 1
    return scores


def _change(gold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return CHANGE * generator.normal(size=(len(gold), N_CHOICES))


def _rows(language: str, seed: int | None, source: str | None, scores: np.ndarray, gold: np.ndarray) -> pl.DataFrame:
    pred = scores.argmax(axis=1)
    constant = {
        **source_columns(BASE if source is None else Source.of(Cell(TASK, source))),
        "model": "made-up-1B",
        "seed": seed,
        "target_task": TASK,
        "target_language": language,
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
def true_graded_pp(gain: float) -> float:
    """Return graded transfer over all items there could be, from one adapter on very many."""
    generator = np.random.default_rng(0)
    gold = generator.integers(0, N_CHOICES, _N_TRUTH)
    lasting = _lasting(gold, generator)
    base, adapter = ((lasting + _change(gold, generator)).T for _ in range(2))
    adapter[gold, np.arange(len(gold))] += gain
    inverse = 1 / base_temperature(base, gold)
    of_base = probabilities(shifted(base), gold, inverse)
    sharpness, every = np.array([of_base.top.mean()]), np.ones((1, len(gold)), dtype=np.bool_)
    matched = match_temperature(shifted(adapter)[:, None], every, sharpness=sharpness, inverse=inverse)
    return float(100 * (probabilities(shifted(adapter), gold, matched[0]).gold - of_base.gold).mean())
