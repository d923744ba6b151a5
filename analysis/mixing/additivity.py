"""What a mixture is expected to do from what its parts do, and how far off that is where mixtures were measured."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from transfergrid.analysis.arrays import FloatArray, IntArray

FEWEST_MIXTURES = 3
"""Measured mixtures of one size that a slope is fitted to."""


class Additivity(NamedTuple):
    """Delta of a mixture as a share of the sum of its parts' deltas."""

    slope: float
    """1: the parts add up; 1 / number of parts: they average."""
    error_pp: float = 0.0
    """Root mean square error on mixtures that were held out of the fit."""
    added_error_pp: float = 0.0
    """The same if the parts added up."""
    n_mixtures: int = 0
    """0: nothing was measured, adding up is assumed."""


ASSUMED = Additivity(1.0)


class Mixes(NamedTuple):
    """M sets of sources as mixtures, best first."""

    members: list[tuple[int, ...]]
    estimate: FloatArray
    """Shape [M], pp."""
    variance: FloatArray
    """Shape [M], pp^2, of one more model or the mean of those measured, as that of the sources."""


def fit_additivity(sums: FloatArray, observed: FloatArray, mixtures: IntArray) -> Additivity:
    """Fit the slope through zero by least squares, and its error with every mixture held out in turn.

    Args:
        sums: Shape [N]: sum of the parts' estimates on a target, pp.
        observed: Shape [N]: delta of the mixture on it, pp.
        mixtures: Shape [N]: which mixture, codes.
    """
    codes = np.unique(mixtures)
    if len(codes) < FEWEST_MIXTURES or not (sums**2).sum() > 0:
        return ASSUMED
    errors = []
    for code in codes:
        out = mixtures == code
        errors.append(observed[out] - _slope(sums[~out], observed[~out]) * sums[out])
    held_out = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    added = float(np.sqrt(np.mean((observed - sums) ** 2)))
    return Additivity(_slope(sums, observed), held_out, added, len(codes))


def _slope(sums: FloatArray, observed: FloatArray) -> float:
    squares = float((sums**2).sum())
    return float((sums * observed).sum()) / squares if squares > 0 else 1.0


def rank_mixes(
    estimates: FloatArray,
    variances: FloatArray,
    fits: Mapping[int, Additivity],
    measured: Mapping[frozenset[int], tuple[float, float]],
    *,
    most: int,
) -> Mixes:
    """Return all sets of up to ``most`` sources by their expected delta.

    A set that was measured is the mean of what is expected and what was measured, weighted by their precision.

    Args:
        estimates: Shape [N]: expected delta of every source on the target, pp.
        variances: Shape [N], pp^2, taken as independent.
        fits: By number of sources.
        measured: Delta and variance by set.
        most: Largest number of sources.
    """
    members: list[tuple[int, ...]] = []
    means, spreads = [], []
    for size in range(1, most + 1):
        sets = np.array(list(combinations(range(len(estimates)), size)), dtype=np.intp).reshape(-1, size)
        fit = fits.get(size, ASSUMED) if size > 1 else ASSUMED
        members += [tuple(each) for each in sets.tolist()]
        means.append(fit.slope * estimates[sets].sum(axis=1))
        spreads.append(fit.slope**2 * variances[sets].sum(axis=1) + fit.error_pp**2)
    estimate, variance = np.concatenate(means), np.concatenate(spreads)
    places = {frozenset(each): place for place, each in enumerate(members)}
    for found, (delta, noise) in measured.items():
        if (place := places.get(found)) is not None and noise > 0 and variance[place] > 0:
            weight = variance[place] / (variance[place] + noise)
            estimate[place] += weight * (delta - estimate[place])
            variance[place] *= 1 - weight
    order = np.argsort(-estimate, kind="stable")
    return Mixes([members[place] for place in order], estimate[order], variance[order])
