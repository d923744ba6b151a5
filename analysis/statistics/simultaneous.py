"""Statements about many units at once that hold together: labels and ranks by the largest of many t statistics.

Source: Romano and Wolf 2005 (max-T); Mogstad, Romano, Shaikh and Wilhelm 2024 (confidence sets of ranks).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transfergrid.analysis.arrays import BoolArray, FloatArray
from transfergrid.analysis.statistics.bootstrap import DRAW_DECIMALS, MIN_VALID_SHARE, Interval

SMALLEST_SE = 10.0**-DRAW_DECIMALS
"""A spread below this is rounding: such a difference is no evidence."""


def complete_draws(draws: npt.NDArray[np.floating]) -> FloatArray | None:
    """Return the resamples in which no unit is missing, shape [G, B']; None: fewer than `MIN_VALID_SHARE` of them."""
    complete = draws[:, np.isfinite(draws).all(axis=0)]
    return complete.astype(np.float64) if complete.shape[1] >= MIN_VALID_SHARE * draws.shape[1] else None


def differs_from_mean(
    draws: npt.NDArray[np.floating], estimates: FloatArray, *, sign: int, confidence: float
) -> BoolArray:
    """Return which units lie above (sign 1) or below (-1) the mean of all, one wrong label in 1 - confidence of tables.

    Args:
        draws: Shape [G, B], resampled scores.
        estimates: Shape [G].
        sign: Side that is asked for.
        confidence: Level at which all labels together are right.
    """
    complete = complete_draws(draws)
    if complete is None:
        return np.zeros(len(draws), dtype=np.bool_)
    apart = sign * (complete - complete.mean(axis=0))
    above = sign * (estimates - estimates.mean())
    errors = apart.std(axis=1, ddof=1)
    usable = errors > SMALLEST_SE
    if not usable.any():
        return np.zeros(len(draws), dtype=np.bool_)
    largest = ((apart - apart.mean(axis=1, keepdims=True))[usable] / errors[usable, None]).max(axis=0)
    labelled: BoolArray = usable & (above > np.quantile(largest, confidence) * errors)
    return labelled


def rank_sets(draws: npt.NDArray[np.floating], estimates: FloatArray, confidence: float) -> Interval:
    """Return the ranks that every unit may have; all of them hold together at the level. Rank 1 is the highest value.

    A unit's lowest rank number is one more than the units that are surely above it, over all differences of two units
    at once; its highest is the number of units less those that are surely below.

    Args:
        draws: Shape [G, B], resampled values.
        estimates: Shape [G].
        confidence: Level, 0..1.

    Returns:
        Shape [G] each; NaN where too few resamples are complete.
    """
    size = len(draws)
    complete = complete_draws(draws)
    if complete is None:
        return Interval(np.full(size, np.nan), np.full(size, np.nan))
    first, second = np.triu_indices(size, k=1)
    differences = complete[first] - complete[second]
    errors = differences.std(axis=1, ddof=1)
    usable = errors > SMALLEST_SE
    first, second, errors, differences = first[usable], second[usable], errors[usable], differences[usable]
    is_above = np.zeros((size, size), dtype=np.bool_)
    if len(errors):
        largest = np.abs((differences - differences.mean(axis=1, keepdims=True)) / errors[:, None]).max(axis=0)
        apart = estimates[first] - estimates[second]
        sure = np.abs(apart) > np.quantile(largest, confidence) * errors
        up = sure & (apart > 0)
        is_above[first[up], second[up]] = True
        is_above[second[sure & ~up], first[sure & ~up]] = True
    return Interval(1.0 + is_above.sum(axis=0), size - is_above.sum(axis=1).astype(np.float64))
