"""Intervals of scores, ranks and harm rates of the units that play one role."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import Float32Array
from transfergrid.analysis.statistics.bootstrap import ClusterBootstrap, centred_interval, rate_interval
from transfergrid.analysis.statistics.group_draws import Group, resample_groups
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


def rank_units(
    part: pl.DataFrame, kind: Kind, scores: pl.DataFrame, draws: Float32Array, settings: AnalysisConfig
) -> list[pl.Series] | None:
    """Resample models, items and the other side; None where that leaves nothing to resample.

    Returns:
        Ends of the intervals of scores, harm rates and ranks, and ``stands_out``: donors whose score lies above the
        mean of their kind, recipients below; all together at the level. One entry per row of ``scores``.
    """
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
    score, harm, level = scores["score_pp"].to_numpy(), scores["harm_rate"].to_numpy(), settings.confidence
    ends = {
        "score_pp": centred_interval(drawn.mean_pp, score, level),
        "harm_rate": rate_interval(centred_interval(drawn.harm_rate, harm, level), harm, scores["n"].to_numpy()),
        "rank": rank_sets(drawn.mean_pp, score, level),
    }
    if not np.isfinite(ends["score_pp"].low).all():
        return None
    sign = 1 if kind.role == "donor" else -1
    stands_out = pl.Series("stands_out", differs_from_mean(drawn.mean_pp, score, sign=sign, confidence=level))
    columns = {f"{name}_{end}": getattr(each, end) for name, each in ends.items() for end in ("low", "high")}
    return [stands_out, *(pl.Series(name, values).fill_nan(None) for name, values in columns.items())]
