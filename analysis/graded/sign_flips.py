"""Studentised sign-flip test of a mean difference whose second side is matched to the first in every flip.

A flip swaps the two sides of an item. The temperature of the second side is then matched again, by a second-order
expansion of both sides' means around the matched state, so a flip is a few sums over items, and all flips of many
pairs are products with one matrix of signs. The statistic is the mean over its standard error, both of that flip.

Source: Fisher 1935 (sign flips); Janssen 1997 (studentised).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

from transfergrid.analysis.arrays import BoolArray, Float32Array, FloatArray
from transfergrid.analysis.graded.temperature import Choices
from transfergrid.analysis.statistics.pair_noise import RULE_OF_THREE

N_FLIPS = 1999
"""Random flips; so few items that they have fewer are flipped in every way."""
N_TAIL = 10
"""A statistic that fewer flips reach has its p from the t distribution, joined to the flips at the so many largest."""
_TIES = 1e-5
"""Relative difference below which two statistics are one: sums are in float32."""
_SMALLEST = 1e-6
"""Share of an item's mean square that the variance of a flip's mean has at least, and of a slope."""
_INVERSION_STEPS = 2
_CHUNK = 64


class FlipColumns(NamedTuple):
    """What the n items of P pairs add to a flip."""

    scored: BoolArray
    """Shape [P, n]: items that are there."""
    columns: Float32Array
    """Shape [4, P, n]: differences of the gold's and of the top probability, and halves of the differences of their
    slopes; 0 for items that are not there."""
    slopes: Float32Array
    """Shape [2, P]: mean slopes over items and both sides, of the gold's and of the top probability."""
    bends: Float32Array
    """Shape [2, P]: the same of the second derivatives."""


class FlipTests(NamedTuple):
    """Results of P pairs, shape [P] each, in the unit of the differences; NaN: fewer than 2 items."""

    p_value: FloatArray
    """Two-sided p of a mean of 0."""
    p_below: FloatArray
    """Probability that the true mean is below 0: the one-sided p, so with a flat prior."""
    low: FloatArray
    high: FloatArray


class _Flips(NamedTuple):
    """What every flip needs at any shift of the mean: shape [P, B], or [P, 1] where all flips have the same."""

    n: Float32Array
    gold: Float32Array
    """Mean difference of the gold's probability, its temperature matched, at shift 0."""
    first_order: Float32Array
    """The same to first order, of which the standard error is."""
    signs: Float32Array
    """Mean sign."""
    ratio: Float32Array
    """How much the gold's probability moves with the top one."""
    mean: Float32Array
    squares: Float32Array
    crossed: Float32Array
    top_squares: Float32Array


def flip_columns(first: Choices, second: Choices, scored: BoolArray) -> FlipColumns:
    """Return what items add to a flip, from both sides at matched temperatures.

    Args:
        first: Base, shape [I] or [P, I].
        second: Adapters, shape [P, I].
        scored: Shape [P, I]: items that are there.
    """

    def means(a: FloatArray, b: FloatArray) -> FloatArray:
        total: FloatArray = np.where(scored, a + b, 0.0).sum(axis=1) / 2 / np.maximum(scored.sum(axis=1), 1)
        return total

    columns = [second[field] - first[field] for field in range(2)]
    columns += [(second[field] - first[field]) / 2 for field in (2, 3)]
    return FlipColumns(
        scored,
        np.where(scored, np.stack(columns), 0.0).astype(np.float32),
        np.stack([means(first[field], second[field]) for field in (2, 3)]).astype(np.float32),
        np.stack([means(first[field], second[field]) for field in (4, 5)]).astype(np.float32),
    )


@lru_cache(maxsize=4)
def draw_signs(n_items: int, n_flips: int, seed: int) -> Float32Array:
    """Return signs, shape [B, n_items], the first flip none at all; the others random, or all there are if so few."""
    if 2**n_items <= n_flips + 1:
        bits = (np.arange(2**n_items)[:, None] >> np.arange(n_items)) & 1
        return np.asarray(1 - 2 * bits, dtype=np.float32)
    generator = np.random.default_rng([seed, n_items])
    signs = 2 * generator.integers(0, 2, size=(n_flips + 1, n_items), dtype=np.int8) - 1
    signs[0] = 1
    return np.asarray(signs, dtype=np.float32)


def sign_flip_tests(data: FlipColumns, *, confidence: float, seed: int, n_flips: int = N_FLIPS) -> FlipTests:
    """Test every pair's mean difference and invert the test for its interval.

    Where nothing varies p is 1 and the interval has room for 3 items (rule of three).

    Args:
        data: Items of P pairs, the second side matched to the first.
        confidence: Level of the intervals.
        seed: Seed of the signs; pairs of equally many items have the same ones.
        n_flips: Random flips.
    """
    n_items = data.scored.shape[1]
    if not len(data.scored):
        return FlipTests(*(np.zeros(0) for _ in range(4)))
    signs = draw_signs(n_items, n_flips, seed)
    is_all = 2**n_items <= n_flips + 1
    parts = [
        _tests(_flips(data, slice(start, start + _CHUNK), signs), confidence, is_all=is_all)
        for start in range(0, len(data.scored), _CHUNK)
    ]
    return FlipTests(*(np.concatenate([part[field] for part in parts]) for field in range(4)))


def _flips(data: FlipColumns, part: slice, signs: Float32Array) -> _Flips:
    scored, columns = data.scored[part], data.columns[:, part]
    n = np.maximum(scored.sum(axis=1, keepdims=True), 1).astype(np.float32)
    sums = (columns.reshape(-1, columns.shape[2]) @ signs.T).reshape(4, -1, len(signs)) / n
    mean_signs = signs.mean(axis=1)[None] if scored.all() else scored.astype(np.float32) @ signs.T / n
    slopes, bends = (each[:, part, None] for each in (data.slopes, data.bends))
    flat = slopes[1] <= _SMALLEST
    steep = np.where(flat, np.float32(1), np.maximum(slopes[1] + sums[3], _SMALLEST))
    ratio = np.where(flat, np.float32(0), (slopes[0] + sums[2]) / steep)
    moved = np.where(flat, np.float32(0), -sums[1] / steep)
    moved -= bends[1] * moved**2 / 2 / steep
    gold, top = columns[0], columns[1]
    moments = (each.sum(axis=1, keepdims=True) / n for each in (gold, gold**2, gold * top, top**2))
    matched = sums[0] + moved * (slopes[0] + sums[2]) + moved**2 / 2 * bends[0]
    return _Flips(n, matched, sums[0] - ratio * sums[1], mean_signs, ratio, *moments)


def _variances(flips: _Flips, shift: Float32Array) -> Float32Array:
    """Return the squared standard error of every flip's mean if the true mean is ``shift``, shape [P, 1] to [P, B]."""
    squares = flips.squares - 2 * shift * flips.mean + shift**2
    squares = squares - 2 * flips.ratio * flips.crossed + flips.ratio**2 * flips.top_squares
    spread = squares - (flips.first_order - shift * flips.signs) ** 2
    least = _SMALLEST * (flips.squares + flips.top_squares)
    found: Float32Array = np.maximum(np.maximum(spread, least) / np.maximum(flips.n - 1, 1), np.finfo(np.float32).tiny)
    return found


def _statistics(flips: _Flips, shift: Float32Array) -> Float32Array:
    found: Float32Array = (flips.gold - shift * flips.signs) / np.sqrt(_variances(flips, shift))
    return found


def _tests(flips: _Flips, confidence: float, *, is_all: bool) -> FlipTests:
    none = np.zeros_like(flips.n)
    statistics = _statistics(flips, none)
    size = np.abs(statistics)
    reached = size >= size[:, :1] * (1 - _TIES)
    n_reached = reached.sum(axis=1)
    p_value = n_reached / size.shape[1]
    above = (statistics >= statistics[:, :1] - _TIES * size[:, :1]).mean(axis=1)
    below = (statistics <= statistics[:, :1] + _TIES * size[:, :1]).mean(axis=1)
    p_below = np.where(statistics[:, 0] > 0, above, 1 - below)
    if not is_all:
        rare = n_reached <= N_TAIL
        p_value[rare] = _tail(size[rare], flips.n[rare, 0])
        p_below = np.where(rare, np.where(statistics[:, 0] > 0, p_value / 2, 1 - p_value / 2), p_below)
    low, high = _invert(flips, size, confidence)
    still = flips.squares[:, 0] == 0
    room = RULE_OF_THREE / flips.n[:, 0]
    few = flips.n[:, 0] < 2
    found = FlipTests(
        np.where(still, 1.0, p_value),
        np.where(still, 0.5, p_below),
        np.clip(np.where(still, -room, low), -1.0, 1.0).astype(np.float64),
        np.clip(np.where(still, room, high), -1.0, 1.0).astype(np.float64),
    )
    return FlipTests(*(np.where(few, np.nan, each) for each in found))


def _tail(size: Float32Array, n_items: Float32Array) -> FloatArray:
    """Return the p of statistics that hardly any flip reaches, by the t distribution from the largest flips on."""
    joint = -np.partition(-size[:, 1:], N_TAIL - 1, axis=1)[:, N_TAIL - 1].astype(np.float64)
    df = n_items.astype(np.float64) - 1
    beyond = special.stdtr(df, -np.maximum(size[:, 0].astype(np.float64), joint)) / special.stdtr(df, -joint)
    found: FloatArray = N_TAIL / (size.shape[1] - 1) * beyond
    return found


def _invert(flips: _Flips, size: Float32Array, confidence: float) -> tuple[Float32Array, Float32Array]:
    """Return the ends of the means that the test does not reject: where the statistic is the flips' quantile there."""
    place = int((1 - confidence) * size.shape[1])
    se = np.sqrt(_variances(flips, np.zeros_like(flips.n))[:, 0])
    mean = flips.mean[:, 0]
    ends = []
    start = _largest(size, place)
    for side in (-1, 1):
        width = start
        for _ in range(_INVERSION_STEPS):
            width = _largest(np.abs(_statistics(flips, (mean + side * width * se)[:, None])), place)
        ends.append(mean + side * width * se)
    return ends[0], ends[1]


def _largest(size: Float32Array, place: int) -> Float32Array:
    found: Float32Array = -np.partition(-size, place, axis=1)[:, place]
    return found
