"""What the tables of one made-up run say, compared with the truth it was drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special, stats

from transfergrid.analysis.records import ALL_TRANSFER, KEY, PAIR, TARGET, in_regime
from transfergrid.analysis.statistics.bootstrap import resample_deltas
from transfergrid.analysis.statistics.true_rates import draw_true_deltas
from transfergrid.analysis.tables.recommendation import estimate_pairs, noisy_pairs
from transfergrid.analysis.tables.regimes import regime_table
from transfergrid.analysis.tables.roles import role_table
from transfergrid.analysis.tables.variance import variance_table
from transfergrid.config.settings import AnalysisConfig
from transfergrid.perf.coverage.world import Drawn, World

FloatArray = npt.NDArray[np.float64]


class Found(NamedTuple):
    """One statement of one run: an interval and its truth, or whether something false was said."""

    what: str
    low: FloatArray
    high: FloatArray
    truth: FloatArray
    """Shape [n]; NaN: what the estimate is on average over many runs."""
    estimate: FloatArray


def said_false(what: str, value: float) -> Found:
    """Return a share or a figure without an interval."""
    one = np.array([value], dtype=float)
    return Found(what, np.full(1, np.nan), np.full(1, np.nan), np.full(1, np.nan), one)


def measure(world: World, drawn: Drawn, settings: AnalysisConfig) -> Iterator[Found]:
    """Yield every statement of the tables that has a truth."""
    rows = drawn.transfer.rows
    draws = resample_deltas(rows, drawn.transfer.items, settings)
    drawn_truth = draw_true_deltas(rows, drawn.transfer.items, settings)
    truth = rows.select(KEY).with_columns(truth=pl.Series(drawn.truth.pairs.ravel()), regime=rows["regime"])
    yield from _pairs(rows, truth["truth"].to_numpy(), settings)
    yield from _regimes(
        world, regime_table(rows, draws, settings, drawn_truth, items=drawn.transfer.items), truth, settings
    )
    yield from _roles(world, role_table(rows, draws, settings, drawn_truth), drawn)
    yield from _variance(world, variance_table(rows, settings, items=drawn.transfer.items))
    yield from recommendations(world, drawn, settings)


def _pairs(rows: pl.DataFrame, truth: FloatArray, settings: AnalysisConfig) -> Iterator[Found]:
    """Intervals of single deltas from their standard errors, and false discoveries."""
    delta, se = rows["delta_pp"].to_numpy(), rows["se_pp"].fill_null(np.nan).to_numpy()
    t = special.stdtrit(rows["df"].fill_null(np.nan).to_numpy(), 1 - (1 - settings.confidence) / 2)
    yield Found("delta -/+ t se", delta - t * se, delta + t * se, truth, delta)
    found = rows["q_value"].fill_null(2.0).to_numpy() <= settings.fdr
    yield said_false("some q <= .05", found.any())
    if found.any():
        yield said_false("wrong sign or no effect, of q <= .05", (np.sign(delta) != np.sign(truth))[found].mean())


def _regimes(world: World, table: pl.DataFrame, truth: pl.DataFrame, settings: AnalysisConfig) -> Iterator[Found]:
    for row in table.filter(by="all").drop_nulls("mean_pp").iter_rows(named=True):
        if row["regime"] == "MT-ML":
            continue
        part = truth.filter(in_regime(row["regime"]))["truth"]
        rates = {"win_rate": (part > 0).mean(), "harm_rate": (part <= settings.harm_threshold_pp).mean()}
        known = {"mean_pp": world.mean_pp, "median_pp": world.mean_pp}
        for name, value in {**known, **{f"{rate}_true": held for rate, held in rates.items()}}.items():
            if name in row:
                yield _interval(f"{name}, {row['regime']}", row, name, value)
        for name in rates:
            yield _interval(f"{name} (nominal), {row['regime']}", row, name, float("nan"))
            yield _interval(f"{name} as if it were the true one, {row['regime']}", row, name, rates[name])
        if world.is_null:
            yield said_false(
                f"harm by chance - observed, {row['regime']}", row["harm_rate_by_chance"] - row["harm_rate"]
            )


def _interval(what: str, row: dict, name: str, truth: float) -> Found:
    ends = (row[f"{name}_low"], row[f"{name}_high"], truth, row[name])
    return Found(what, *(np.array([np.nan if end is None else end], dtype=float) for end in ends))


def _roles(world: World, table: pl.DataFrame, drawn: Drawn) -> Iterator[Found]:
    names = [cell.name for cell in world.cells]
    sides = {"donor": drawn.truth.sources, "recipient": drawn.truth.targets}
    for role, values in sides.items():
        if world.model_target_sd and role == "recipient":
            values = drawn.truth.pairs.mean(axis=(0, 1)) * np.nan  # the models' mean: not one number
        truth = dict(zip(names, values, strict=True))
        part = table.filter(role=role, unit="cell", regime=ALL_TRANSFER, models_by="all")
        true = np.array([truth[name] for name in part["name"]])
        scores = [part[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in _ends("score_pp")]
        yield Found(f"score of a {role}", scores[1], scores[2], true, scores[0])
        yield from _ranks(role, part, true)
        label = part["label"].is_not_null().to_numpy()
        wrong = true <= true.mean() if role == "donor" else true >= true.mean()
        yield said_false(f"some false label of a {role}", (label & wrong).any())
        yield said_false(f"labels of {role}s", label.sum())


def _ranks(role: str, part: pl.DataFrame, truth: FloatArray) -> Iterator[Found]:
    low, high = (part[name].fill_null(0).to_numpy() for name in ("rank_low", "rank_high"))
    best, worst = stats.rankdata(-truth, method="min"), stats.rankdata(-truth, method="max")
    held = (low <= worst) & (best <= high)
    yield said_false(f"rank of a {role} held", held.mean())
    yield said_false(f"rank of the best and worst {role} held", held[[truth.argmax(), truth.argmin()]].mean())
    yield said_false(f"all ranks of {role}s held", held.all())


def _ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _variance(world: World, table: pl.DataFrame) -> Iterator[Found]:
    parts = {
        "source": world.source_sd**2,
        "target": world.target_sd**2,
        "residual": world.pair_sd**2
        + world.model_target_sd**2
        + world.task_pair_sd**2
        # the luck of training is the pair's, as far as the mean over seeds leaves it
        + world.seed_sd**2 / world.n_seeds,
    }
    total = sum(parts.values())
    for row in table.filter(fit="crossed", regime=ALL_TRANSFER).iter_rows(named=True):
        value = parts.get(row["component"])
        if value is None:
            continue
        for name in ("share", "share_true"):
            if total and row[name] is not None:
                yield _interval(f"{name} of {row['component']}", row, name, value / total)
        for name in ("variance_pp2", "variance_true_pp2"):
            yield _interval(f"{name} of {row['component']}", row, name, value)


def recommendations(world: World, drawn: Drawn, settings: AnalysisConfig) -> Iterator[Found]:
    """Yield what `grid recommend` says of every pair, of the first of every target, and how far it is off."""
    place = {(cell.task, cell.language): index for index, cell in enumerate(world.cells)}
    truth = drawn.truth.pairs.mean(axis=0)
    rows = drawn.transfer.rows.filter(in_regime(ALL_TRANSFER))
    table = estimate_pairs(noisy_pairs(rows, drawn.transfer.items), settings)
    true = [truth[place[pair[:2]], place[pair[2:]]] for pair in table.select(PAIR).iter_rows()]
    width = 2 * special.ndtri(1 - (1 - settings.confidence) / 2)
    table = table.with_columns(truth=pl.Series(true), se=(pl.col("high_pp") - pl.col("low_pp")) / width)
    columns = ("low_pp", "high_pp", "truth", "estimate_pp")
    yield Found("recommend", *(table[name].to_numpy() for name in columns))
    first = table.sort("estimate_pp", descending=True).unique(TARGET, keep="first", maintain_order=True)
    yield Found("recommend, first of a target", *(first[name].to_numpy() for name in columns))
    error = pl.col("estimate_pp") - pl.col("truth")
    sure = pl.col("p_help") > settings.confidence
    yield said_false("bias of the first in standard errors", first.select((error / pl.col("se")).mean()).item())
    yield said_false("bias of the first in pp", first.select(error.mean()).item())
    yield said_false("P(help) above .95", table.select(sure.mean()).item())
    if table.select(sure.any()).item():
        yield said_false(
            "of those, effects that do not help", table.filter(sure).select((pl.col("truth") <= 0).mean()).item()
        )
    yield said_false("rmse", table.select((error**2).mean().sqrt()).item())
    observed = pl.col("observed_pp") - pl.col("truth")
    yield said_false("rmse of observed deltas", table.select((observed**2).mean().sqrt()).item())


class Line(NamedTuple):
    """A statement over all runs."""

    what: str
    n: int
    held: float | None
    """Share of the intervals that hold the truth; None: no interval."""
    mean: float
    """Mean estimate."""
    truth: float
    width: float


def summarise(found: Sequence[Found]) -> list[Line]:
    """Return one line for each statement, in the order in which they first came."""
    lines = []
    for what in dict.fromkeys(each.what for each in found):
        parts = [each for each in found if each.what == what]
        low, high, truth, estimate = (np.concatenate([part[field] for part in parts]) for field in range(1, 5))
        truth = np.where(np.isnan(truth), estimate.mean(), truth)
        there = np.isfinite(low)
        held = ((low <= truth) & (truth <= high))[there].mean() if there.any() else None
        width = float((high - low)[there].mean()) if there.any() else float("nan")
        lines.append(Line(what, len(parts), held, float(np.nanmean(estimate)), float(truth.mean()), width))
    return lines
