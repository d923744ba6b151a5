"""Statistics of groups of rows in every resample: dense where deltas are fixed, sparse where items are resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

from transfergrid.analysis.arrays import Float32Array, FloatArray, IntArray
from transfergrid.analysis.statistics.bootstrap import ClusterBootstrap, Draws
from transfergrid.analysis.statistics.levels import membership
from transfergrid.analysis.threads import side_by_side

N_STATISTICS = 5


@dataclass(frozen=True, slots=True)
class Group:
    """Some rows of a transfer table that are summarised together."""

    regime: str
    by: str
    """What the rows were grouped by."""
    name: str
    index: IntArray
    """Shape [n], positions in the table."""


class GroupDraws(NamedTuple):
    """Statistics of G groups in B resamples, each shape [G, B]; NaN: the group was empty in a resample."""

    mean_pp: Float32Array
    win_rate: Float32Array
    harm_rate: Float32Array
    below_median: Float32Array
    """Share of rows at or below the group's own median."""


def resample_groups(
    bootstrap: ClusterBootstrap, deltas: FloatArray, groups: Sequence[Group], *, factors: Sequence[str], harm_pp: float
) -> GroupDraws:
    """Return every group's statistics in every resample.

    Args:
        bootstrap: Resamples of the N rows.
        deltas: Shape [N], in pp, as measured.
        groups: G groups of those rows, none empty.
        factors: At most two names from `FACTORS` that are resampled besides the items.
        harm_pp: A delta at or below this counts as harm.
    """
    medians = np.array([np.median(deltas[group.index]) for group in groups])
    if not bootstrap.has_items:
        return _fixed_deltas(bootstrap, deltas, groups, medians, factors=factors, harm_pp=harm_pp)
    member = membership([group.index for group in groups], len(deltas))
    counts = {factor: bootstrap.counts(factor) for factor in factors}

    def chunk(part: slice) -> GroupDraws:
        return _sparse_chunk(bootstrap.draw(part, counts), member, groups, medians, harm_pp)

    parts = list(side_by_side(chunk, bootstrap.parts()))
    return GroupDraws(*(np.concatenate([part[field] for part in parts], axis=1) for field in range(4)))


def _fixed_deltas(
    bootstrap: ClusterBootstrap,
    deltas: FloatArray,
    groups: Sequence[Group],
    medians: FloatArray,
    *,
    factors: Sequence[str],
    harm_pp: float,
) -> GroupDraws:
    """Sum the rows over what is not resampled first; a resample is then a bilinear form of two counts."""
    first, second = _two_factors(bootstrap, factors)
    shape = (first.counts.shape[1], second.counts.shape[1])
    cells = first.codes * shape[1] + second.codes
    out = np.empty((4, len(groups), bootstrap.n_resamples), dtype=np.float32)
    for row, group in enumerate(groups):
        part = deltas[group.index]
        values = [np.ones(len(part)), part, part > 0, part <= harm_pp, part <= medians[row]]
        sums = [np.bincount(cells[group.index], weights=each, minlength=shape[0] * shape[1]) for each in values]
        table = np.stack(sums).reshape(N_STATISTICS, *shape).astype(np.float32)
        drawn = np.einsum("kbt,bt->kb", first.counts @ table, second.counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, row] = drawn[1:] / drawn[0]
    return GroupDraws(*out)


class _Factor(NamedTuple):
    codes: IntArray
    counts: Float32Array


def _two_factors(bootstrap: ClusterBootstrap, factors: Sequence[str]) -> tuple[_Factor, _Factor]:
    """Return two factors; what is not resampled is one level that is always drawn once."""
    found = [_Factor(bootstrap.levels[name], bootstrap.counts(name)) for name in factors]
    n_rows = len(bootstrap.deltas)
    while len(found) < 2:
        found.append(_Factor(np.zeros(n_rows, dtype=np.intp), np.ones((bootstrap.n_resamples, 1), dtype=np.float32)))
    first, second = found
    return first, second


def _sparse_chunk(
    draws: Draws, member: sparse.csr_array, groups: Sequence[Group], medians: FloatArray, harm_pp: float
) -> GroupDraws:
    weights, deltas = draws
    total = member @ weights
    below = np.empty_like(total)
    for row, group in enumerate(groups):
        is_below = deltas[group.index] <= np.float32(medians[row])
        below[row] = np.einsum("nc,nc->c", weights[group.index], is_below)
    with np.errstate(invalid="ignore", divide="ignore"):
        return GroupDraws(
            member @ (weights * deltas) / total,
            member @ (weights * (deltas > 0)) / total,
            member @ (weights * (deltas <= np.float32(harm_pp))) / total,
            below / total,
        )
