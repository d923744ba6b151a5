"""Statistics of groups of rows, with their cluster bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import special

from transfergrid.analysis.arrays import Float32Array, FloatArray, IntArray
from transfergrid.analysis.records import ItemBlock
from transfergrid.analysis.statistics.bootstrap import (
    FACTORS,
    MIN_VALID_SHARE,
    ClusterBootstrap,
    Interval,
    centred_interval,
    rate_interval,
)
from transfergrid.analysis.statistics.group_draws import Group, resample_groups
from transfergrid.analysis.statistics.levels import count_levels, level_codes
from transfergrid.analysis.statistics.multiway import mean_intervals
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime


class Intervals(NamedTuple):
    """Intervals of what `estimate` returns, and why a group has none."""

    ends: dict[str, Interval]
    """By statistic."""
    reasons: list[str | None]
    """Shape [G]; null: the group has its intervals."""
    resampled: list[str]
    """Shape [G]: the factors behind the intervals, such as ``items, sources, targets``."""


def estimate(deltas: FloatArray, groups: Sequence[Group], harm_threshold_pp: float) -> dict[str, FloatArray]:
    """Return every group's mean, median, win and harm rate, shape [G] each, rates in 0..1; no group may be empty.

    Args:
        deltas: Shape [N], in pp.
        groups: G groups of those rows.
        harm_threshold_pp: A delta at or below this counts as harm.
    """
    parts = [deltas[group.index] for group in groups]
    return {
        "mean_pp": np.array([part.mean() for part in parts]),
        "median_pp": np.array([np.median(part) for part in parts]),
        "win_rate": np.array([(part > 0).mean() for part in parts]),
        "harm_rate": np.array([(part <= harm_threshold_pp).mean() for part in parts]),
    }


def interval_factors(codes: dict[str, IntArray], group: Group) -> tuple[str, ...]:
    """Return what to resample for a group: sources and targets, as far as the group has more than one.

    On the diagonal (MT-ML) source and target are one cell, which is resampled once.

    Args:
        codes: Levels of ``sources`` and ``targets``, shape [N] each.
        group: Rows of that table.
    """
    several = [name for name in ("sources", "targets") if count_levels(codes[name][group.index]) > 1]
    return tuple(several[:1] if group.regime == Regime.MT_ML else several)


def intervals(
    rows: pl.DataFrame,
    draws: Float32Array,
    groups: Sequence[Group],
    settings: AnalysisConfig,
    *,
    items: Sequence[ItemBlock],
) -> Intervals:
    """Return every group's intervals.

    Args:
        rows: N rows of the transfer table, ``delta_pp`` without nulls.
        draws: Shape [N, B] or [N, 1], see `resample_deltas`.
        groups: G groups, none empty.
        settings: Level, resamples, seed and harm threshold.
        items: Item-wise differences, for the intervals of the means.
    """
    ends = {name: Interval(*np.full((2, len(groups)), np.nan)) for name in ("median_pp", "win_rate", "harm_rate")}
    codes = {name: level_codes(rows, FACTORS[name]) for name in ("sources", "targets")}
    factors = [interval_factors(codes, group) for group in groups]
    has_items = draws.shape[1] > 1
    for chosen in sorted(set(factors)):
        if not chosen and not has_items:
            continue
        places = [place for place, each in enumerate(factors) if each == chosen]
        part = _subset(rows, draws, [groups[place] for place in places], settings)
        for name, found in _part_intervals(part, chosen, settings).items():
            ends[name].low[places], ends[name].high[places] = found
    indices = [group.index for group in groups]
    mean = Interval(*mean_intervals(rows, items, indices, factors=factors, confidence=settings.confidence))
    resampled = [("items",) * has_items + chosen for chosen in factors]
    there = zip(resampled, np.isfinite(ends["median_pp"].low), np.isfinite(mean.low), strict=True)
    reasons = [_reason(each, has_median=bool(median), has_mean=bool(known)) for each, median, known in there]
    return Intervals({"mean_pp": mean, **ends}, reasons, [", ".join(each) for each in resampled])


class _Part(NamedTuple):
    deltas: FloatArray
    bootstrap: ClusterBootstrap
    groups: list[Group]


def _subset(rows: pl.DataFrame, draws: Float32Array, groups: list[Group], settings: AnalysisConfig) -> _Part:
    kept = np.unique(np.concatenate([group.index for group in groups]))
    part = rows[kept]
    return _Part(
        part["delta_pp"].to_numpy(),
        ClusterBootstrap(part, draws[kept], settings),
        [Group(group.regime, group.by, group.name, np.searchsorted(kept, group.index)) for group in groups],
    )


def _part_intervals(part: _Part, factors: Sequence[str], settings: AnalysisConfig) -> dict[str, Interval]:
    draws = resample_groups(
        part.bootstrap, part.deltas, part.groups, factors=factors, harm_pp=settings.harm_threshold_pp
    )
    found = estimate(part.deltas, part.groups, settings.harm_threshold_pp)
    sizes = np.array([len(group.index) for group in part.groups])
    of_rates = {
        name: rate_interval(centred_interval(drawn, found[name], settings.confidence), found[name], sizes)
        for name, drawn in (("win_rate", draws.win_rate), ("harm_rate", draws.harm_rate))
    }
    return {
        "median_pp": _median_interval(draws.below_median, part.deltas, part.groups, settings.confidence),
        **of_rates,
    }


def _median_interval(below: Float32Array, deltas: FloatArray, groups: Sequence[Group], confidence: float) -> Interval:
    """Invert the spread of the share below the median (Woodruff 1952): quantiles at 0.5 -/+ z * se."""
    low, high = np.full(len(groups), np.nan), np.full(len(groups), np.nan)
    z = float(special.ndtri(1 - (1 - confidence) / 2))
    for row, group in enumerate(groups):
        valid = below[row][np.isfinite(below[row])]
        if len(valid) >= MIN_VALID_SHARE * below.shape[1]:
            width = z * float(valid.std(dtype=np.float64))
            ends = np.clip([0.5 - width, 0.5 + width], 0, 1)
            low[row], high[row] = np.quantile(deltas[group.index], ends)
    return Interval(low, high)


def _reason(resampled: tuple[str, ...], *, has_median: bool, has_mean: bool) -> str | None:
    if not resampled:
        return "no interval: one source and one target, and no items to resample"
    if not has_median:
        return "no interval of median and observed rates: the group is empty in more than 10 % of the resamples"
    return None if has_mean else "no interval of the mean: nothing varies and there are no items"
