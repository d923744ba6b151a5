"""Intervals of scores, ranks and harm rates of the units that play one role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from transfergrid.analysis.statistics.bootstrap import (
    DRAW_DECIMALS,
    MIN_VALID_SHARE,
    ClusterBootstrap,
    Interval,
    centred_interval,
    count_levels,
)
from transfergrid.analysis.statistics.group_draws import Group, resample_groups
from transfergrid.analysis.statistics.group_intervals import DrawArray
from transfergrid.config.settings import AnalysisConfig


@dataclass(frozen=True, slots=True)
class Kind:
    """What is ranked: a role, what plays it, and in which regime."""

    role: str
    """``donor`` or ``recipient``."""
    unit: str
    regime: str


class Ranking(NamedTuple):
    """Intervals of G units, each end of shape [G]."""

    score: Interval
    above_mean: Interval
    harm_rate: Interval
    harm_above_mean: Interval
    rank: Interval


def rank_units(
    part: pl.DataFrame, kind: Kind, scores: pl.DataFrame, draws: DrawArray, settings: AnalysisConfig
) -> Ranking | None:
    """Resample models, items and the other side; None where that leaves nothing to resample."""
    other = "targets" if kind.role == "donor" else "sources"
    bootstrap = ClusterBootstrap(part, draws[part["row"].to_numpy()], settings)
    factors = [name for name in ("models", other) if count_levels(bootstrap.levels[name]) > 1]
    if not factors and not bootstrap.has_items:
        return None
    places = part.with_row_index("place").group_by("name").agg("place").sort("name")
    groups = [Group(kind.regime, kind.unit, name, np.array(index, dtype=np.intp)) for name, index in places.iter_rows()]
    drawn = resample_groups(
        bootstrap, part["delta_pp"].to_numpy(), groups, factors=factors, harm_pp=settings.harm_threshold_pp
    )
    found = _rank_draws(drawn.mean_pp, drawn.harm_rate, scores, settings.confidence)
    return found if np.isfinite(found.score.low).all() else None


def _rank_draws(
    means: npt.NDArray[np.float32], harms: npt.NDArray[np.float32], scores: pl.DataFrame, confidence: float
) -> Ranking:
    score, harm = scores["score_pp"].to_numpy(), scores["harm_rate"].to_numpy()
    harm_interval = centred_interval(harms, harm, confidence)
    return Ranking(
        centred_interval(means, score, confidence),
        centred_interval(means - means.mean(axis=0), score - score.mean(), confidence),
        Interval(np.clip(harm_interval.low, 0, 1), np.clip(harm_interval.high, 0, 1)),
        centred_interval(harms - harms.mean(axis=0), harm - harm.mean(), confidence),
        rank_interval(means, confidence),
    )


def rank_interval(draws: npt.NDArray[np.floating], confidence: float) -> Interval:
    """Return percentile intervals of ranks over resamples; rank 1 is the highest value.

    Units that tie in a resample share its lowest rank at the low end and its highest at the high end.

    Args:
        draws: Shape [G, B]; resamples in which a unit is missing (NaN) are left out.
        confidence: Level, 0..1.

    Returns:
        Shape [G] each; NaN where too few resamples are complete.
    """
    complete = draws[:, np.isfinite(draws).all(axis=0)]
    if complete.shape[1] < MIN_VALID_SHARE * draws.shape[1]:
        nothing = np.full(len(draws), np.nan)
        return Interval(nothing, nothing)
    values = -complete.round(DRAW_DECIMALS)
    tail = (1 - confidence) / 2
    low, high = (
        np.quantile(stats.rankdata(values, method=method, axis=0), level, axis=1, method="inverted_cdf")
        for method, level in (("min", tail), ("max", 1 - tail))
    )
    return Interval(low.astype(np.float64), high.astype(np.float64))


def ranking_columns(ranking: Ranking) -> list[pl.Series]:
    """Return the intervals as columns of the role table, one row per unit."""
    columns = {
        "score_pp_low": ranking.score.low,
        "score_pp_high": ranking.score.high,
        "harm_rate_low": ranking.harm_rate.low,
        "harm_rate_high": ranking.harm_rate.high,
        "above_mean_low": ranking.above_mean.low,
        "harm_above_mean_low": ranking.harm_above_mean.low,
    }
    ranks = {"rank_low": ranking.rank.low, "rank_high": ranking.rank.high}
    return [
        *(pl.Series(name, values).fill_nan(None) for name, values in columns.items()),
        *(pl.Series(name, values).fill_nan(None).cast(pl.Int64) for name, values in ranks.items()),
    ]
