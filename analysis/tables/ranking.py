"""Intervals of scores, ranks and harm rates of the units that play one role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import BoolArray, Float32Array
from transfergrid.analysis.statistics.bootstrap import ClusterBootstrap, Interval, centred_interval, rate_interval
from transfergrid.analysis.statistics.group_draws import Group, GroupDraws, resample_groups
from transfergrid.analysis.statistics.levels import count_levels
from transfergrid.analysis.statistics.simultaneous import differs_from_mean, rank_sets
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
    harm_rate: Interval
    rank: Interval
    stands_out: BoolArray
    """Shape [G]: donors whose score lies above the mean of their kind, recipients below; all together at the level."""


def rank_units(
    part: pl.DataFrame, kind: Kind, scores: pl.DataFrame, draws: Float32Array, settings: AnalysisConfig
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
    found = _rank_draws(drawn, scores, sign=1 if kind.role == "donor" else -1, confidence=settings.confidence)
    return found if np.isfinite(found.score.low).all() else None


def _rank_draws(drawn: GroupDraws, scores: pl.DataFrame, *, sign: int, confidence: float) -> Ranking:
    score, harm = scores["score_pp"].to_numpy(), scores["harm_rate"].to_numpy()
    harm_interval = centred_interval(drawn.harm_rate, harm, confidence)
    return Ranking(
        centred_interval(drawn.mean_pp, score, confidence),
        rate_interval(harm_interval, harm, scores["n"].to_numpy()),
        rank_sets(drawn.mean_pp, score, confidence),
        differs_from_mean(drawn.mean_pp, score, sign=sign, confidence=confidence),
    )


def ranking_columns(ranking: Ranking) -> list[pl.Series]:
    """Return the intervals as columns of the role table, one row per unit."""
    columns = {
        "score_pp_low": ranking.score.low,
        "score_pp_high": ranking.score.high,
        "harm_rate_low": ranking.harm_rate.low,
        "harm_rate_high": ranking.harm_rate.high,
    }
    ranks = {"rank_low": ranking.rank.low, "rank_high": ranking.rank.high}
    return [
        *(pl.Series(name, values).fill_nan(None) for name, values in columns.items()),
        *(pl.Series(name, values).fill_nan(None).cast(pl.Int64) for name, values in ranks.items()),
        pl.Series("stands_out", ranking.stands_out),
    ]
