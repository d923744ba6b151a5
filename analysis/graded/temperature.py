"""Probabilities of an item's choices at a temperature, and the temperature at which two sides are equally sure.

``p = softmax(z / T)``; choices are the first axis, since sums over it are fast. The sharpness of a side is the mean
over items of its top probability; it rises as T falls.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transfergrid.analysis.arrays import BoolArray, FloatArray, IntArray

IMPOSSIBLE = -1e30
"""Score of a choice that an item does not have, or that has a probability of 0."""
_WIDEST = float(np.log(1e4))
"""Matched temperatures lie within this of the other side's, on the log scale."""
_MATCHED = 1e-9
_MAX_STEPS = 80
_LONGEST_STEP = 1.5


class Choices(NamedTuple):
    """Gold and top probability of items and their derivatives by the log of 1 / T; each of the items' shape."""

    gold: FloatArray
    top: FloatArray
    gold_slope: FloatArray
    top_slope: FloatArray
    gold_bend: FloatArray
    top_bend: FloatArray


def shifted(z: FloatArray) -> FloatArray:
    """Return scores less the best of their item, shape [C, ..., I]; minus infinity becomes `IMPOSSIBLE`."""
    found: FloatArray = np.maximum(z - z.max(axis=0), IMPOSSIBLE)
    return found


def base_temperature(z: FloatArray, gold: IntArray) -> float:
    """Return half the median over items of ``|gold - best other|``, in nats; 0: half of the items tell nothing apart.

    Args:
        z: Shape [C, I], I >= 1.
        gold: Shape [I].
    """
    items = np.arange(z.shape[1])
    others = z.copy()
    others[gold, items] = -np.inf
    return float(np.median(np.abs(z[gold, items] - others.max(axis=0))) / 2)


def probabilities(z: FloatArray, gold: IntArray, inverse: FloatArray | float) -> Choices:
    """Return gold and top probability of every item with first and second derivatives.

    Args:
        z: Shape [C, ..., I], the best of an item at 0 (`shifted`).
        gold: Shape [I].
        inverse: 1 / T, broadcast against [C, ..., I].
    """
    u = z * inverse
    weights = np.exp(u)
    top = 1 / weights.sum(axis=0)
    weights *= u
    mean = weights.sum(axis=0) * top
    weights *= u
    spread = weights.sum(axis=0) * top - mean**2
    of_gold = np.take_along_axis(u, np.broadcast_to(gold, (1, *u.shape[1:])), axis=0)[0]
    right = np.exp(of_gold) * top
    above = np.where(right > 0, of_gold, 0.0) - mean
    return Choices(
        right,
        top,
        right * above,
        -top * mean,
        right * (above**2 + above - spread),
        top * (mean**2 - mean - spread),
    )


def match_temperature(z: FloatArray, scored: BoolArray, *, sharpness: FloatArray, inverse: float) -> FloatArray:
    """Return 1 / T at which every side's mean top probability is a given one, shape [P]; NaN: there is none.

    Newton's steps on the log of 1 / T, inside a bracket that every step makes narrower.

    Args:
        z: Shape [C, P, I], the best of an item at 0.
        scored: Shape [P, I]: items that count.
        sharpness: Shape [P]: the mean top probability over those items that is wanted.
        inverse: 1 / T to start from.
    """
    n_items = np.maximum(scored.sum(axis=1), 1)
    place, found = np.zeros(len(scored)), np.full(len(scored), np.nan)
    low, high = np.full(len(scored), -_WIDEST), np.full(len(scored), _WIDEST)
    active = np.flatnonzero(scored.any(axis=1))
    for _ in range(_MAX_STEPS):
        if not len(active):
            break
        u = (z if len(active) == len(scored) else z[:, active]) * (inverse * np.exp(place[active]))[:, None]
        weights = np.exp(u)
        top = np.where(scored[active], 1 / weights.sum(axis=0), 0.0)
        weights *= u
        slope = -(top**2 * weights.sum(axis=0)).sum(axis=1) / n_items[active]
        error = top.sum(axis=1) / n_items[active] - sharpness[active]
        done = np.abs(error) <= _MATCHED
        found[active[done]] = inverse * np.exp(place[active[done]])
        low[active] = np.where(error < 0, place[active], low[active])
        high[active] = np.where(error > 0, place[active], high[active])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = np.clip(-error / slope, -_LONGEST_STEP, _LONGEST_STEP)
        guess, middle = place[active] + step, (low[active] + high[active]) / 2
        inside = (guess > low[active]) & (guess < high[active])
        place[active] = np.where(inside, guess, middle)
        active = active[~done & (high[active] - low[active] > _MATCHED)]
    return found
