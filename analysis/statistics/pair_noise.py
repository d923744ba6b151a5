"""Noise of the deltas of (source, target) pairs: what is a pair's own, and what all sources of a target share.

All sources of a target are compared with the same baseline answers to the same items, so their deltas err together.
The item-wise differences say by how much: their covariance between two sources of one target is the shared part, of
which every source takes as much as its own answers covary with the others' (one factor per target, correlated
between the languages of a task, whose items are the same). An adapter that changes little shares little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from transfergrid.analysis.records import PAIR, SOURCE, TARGET, ItemBlock
from transfergrid.analysis.statistics.bootstrap import level_codes

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

RULE_OF_THREE = 3.0
"""Items that may change at most (95 %) where none of n did: 3 / n of them (Hanley and Lippman-Hand 1983)."""


class PairNoise(NamedTuple):
    """Noise of N pairs on T targets, in pp around the true deltas."""

    own: FloatArray
    """Shape [N]: variance of a pair's own noise, pp^2, > 0; NaN: not known."""
    loading: FloatArray
    """Shape [N]: standard deviation of what a pair shares with the other sources of its target, pp."""
    correlation: FloatArray
    """Shape [T, T]: of the shared noise between targets; T in the order of `level_codes`."""
    from_items: npt.NDArray[np.bool_]
    """Shape [N]: whether there are items to tell shared noise by."""

    @property
    def variance(self) -> FloatArray:
        """Shape [N]: own and shared noise together, pp^2."""
        return self.own + self.loading**2


def independent_noise(own: FloatArray, n_targets: int) -> PairNoise:
    """Return noise that no two pairs share, from variances of shape [N]."""
    return PairNoise(own, np.zeros_like(own), np.eye(n_targets), np.zeros(len(own), dtype=np.bool_))


def measure_noise(rows: pl.DataFrame, pairs: pl.DataFrame, items: Sequence[ItemBlock]) -> PairNoise:
    """Return the noise of every pair's mean delta over the models that have it.

    Args:
        rows: Transfer rows with ``delta_pp`` and ``se_pp``, of the chosen models and regimes.
        pairs: One row per (source, target) of them, with ``n_models``.
        items: Item-wise differences; pairs without any have the standard errors only, and share nothing.
    """
    keys = pairs.select(*PAIR, "n_models").with_row_index("pair")
    numbered = rows.select("model", *PAIR, "se_pp").join(keys, on=list(PAIR), validate="m:1")
    targets = level_codes(pairs, TARGET)
    noise = independent_noise(_from_errors(numbered, pairs.height), int(targets.max(initial=-1)) + 1)
    one_item = np.full(pairs.height, np.nan)
    for block in items:
        part = _influences(block, numbered)
        if not len(part.pairs):
            continue
        here = pairs[part.pairs]
        loading, correlation = shared_part(part.influence, level_codes(here, SOURCE), targets[part.pairs])
        total = (part.influence**2).sum(axis=1) + part.seeds
        noise.loading[part.pairs] = loading
        noise.own[part.pairs] = np.maximum(total - loading**2, 0.0)
        places = np.unique(targets[part.pairs])
        noise.correlation[np.ix_(places, places)] = correlation
        one_item[part.pairs] = part.one_item
    return noise._replace(own=_never_zero(noise.own, one_item), from_items=np.isfinite(one_item))


def _from_errors(numbered: pl.DataFrame, n_pairs: int) -> FloatArray:
    """Return mean squared standard error / number of models, shape [N]; NaN where a pair has none."""
    found = numbered.group_by("pair").agg(own=(pl.col("se_pp") ** 2).mean() / pl.col("n_models").first())
    own = np.full(n_pairs, np.nan)
    own[found["pair"].to_numpy()] = found["own"].fill_null(np.nan).to_numpy()
    return own


class _Influences(NamedTuple):
    """What the items of one task weigh in the mean deltas of n pairs."""

    pairs: IntArray
    """Shape [n]: places of the pairs."""
    influence: FloatArray
    """Shape [n, I]: products of two rows add up to the covariance of their means, pp^2."""
    seeds: FloatArray
    """Shape [n]: what seeds add to the variance, pp^2."""
    one_item: FloatArray
    """Shape [n]: variance that one changed item of one model gives, pp^2."""


def _influences(block: ItemBlock, numbered: pl.DataFrame) -> _Influences:
    keys = block.keys.with_row_index("row")
    found = keys.join(numbered, on=["model", *PAIR], validate="1:1").sort("row")
    chosen = found["row"].to_numpy()
    scored = block.scored[chosen]
    n_items = np.maximum(scored.sum(axis=1, keepdims=True), 1)
    differences = block.differences[chosen].astype(np.float64)
    deviations = np.where(scored, differences - differences.sum(axis=1, keepdims=True) / n_items, 0.0)
    deviations *= 100 / np.sqrt(n_items * np.maximum(n_items - 1, 1))
    n_models = found["n_models"].to_numpy()
    pairs, places = np.unique(found["pair"].to_numpy(), return_inverse=True)
    extra = np.nan_to_num(found["se_pp"].fill_null(0.0).to_numpy() ** 2 - (deviations**2).sum(axis=1))
    influence = np.zeros((len(pairs), len(block.item_ids)))
    np.add.at(influence, places, deviations / n_models[:, None])
    seeds, one_item = np.zeros(len(pairs)), np.zeros(len(pairs))
    np.add.at(seeds, places, np.maximum(extra, 0.0) / n_models**2)
    np.add.at(one_item, places, (100 / n_items[:, 0]) ** 2 / n_models**3)
    return _Influences(pairs.astype(np.intp), influence, seeds, one_item)


def shared_part(influence: FloatArray, sources: IntArray, targets: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the loadings of n pairs on the shared noise of their targets, and its correlation between targets.

    One factor per target: the covariance of two of its sources is the product of their loadings, so a loading is the
    sum of a source's covariances with the others over the root of the sum of all. Targets in the order of their codes.

    Args:
        influence: Shape [n, I], see `_Influences`.
        sources: Shape [n], codes.
        targets: Shape [n], codes; t different ones.

    Returns:
        Loadings, shape [n], >= 0, and the correlation, shape [t, t].
    """
    columns = np.unique(targets, return_inverse=True)[1]
    members = np.eye(int(columns.max()) + 1)[columns]
    covariance = influence @ influence.T
    between = covariance * (sources[:, None] != sources[None, :])
    sums = between @ members
    total = members.T @ sums
    n_sources = members.sum(axis=0)
    few = n_sources / np.maximum(n_sources - 1, 1)
    scale = np.sqrt(np.maximum(np.diag(total), 0.0) / few)[columns]
    own_sum = np.maximum(sums[np.arange(len(columns)), columns], 0.0)
    loading = np.divide(own_sum, scale, out=np.zeros_like(own_sum), where=scale > 0)
    loading = np.minimum(loading, np.sqrt(np.diag(covariance)))
    expected = members.T @ (np.outer(loading, loading) * (sources[:, None] != sources[None, :])) @ members
    raw = np.divide(total, expected, out=np.zeros_like(total), where=expected > 0)
    np.fill_diagonal(raw, 1.0)
    return loading, _nearest_correlation(np.clip(raw, -1.0, 1.0))


def matrix_root(matrix: FloatArray) -> FloatArray:
    """Return R with R R' equal to a symmetric matrix without its negative eigenvalues, shape [t, t]."""
    values, vectors = np.linalg.eigh(matrix)
    root: FloatArray = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def _nearest_correlation(matrix: FloatArray) -> FloatArray:
    """Return the matrix without its negative eigenvalues, scaled back to a diagonal of 1."""
    root = matrix_root((matrix + matrix.T) / 2)
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    nearest: FloatArray = root @ root.T
    return nearest


def _never_zero(own: FloatArray, one_item: FloatArray) -> FloatArray:
    """Draw the number of items behind every variance towards the table's mean, so that none is zero.

    A pair's number of changed items is Poisson, its rate gamma with the table's mean m and shape k, by moments, at
    least 1 (exponential): the posterior mean of the rate is ``(count + k) m / (m + k)`` (Gelman et al. 2013, 2.6).
    Without a change anywhere there is no m, and the rate is its upper bound. Pairs without items take the mean
    variance of the others for a zero.
    """
    counted = np.isfinite(one_item)
    counts = own[counted] / one_item[counted]
    filled = own.copy()
    filled[counted] = _posterior_rates(counts) * one_item[counted]
    others = filled[filled > 0]
    return np.where(filled == 0, others.mean() if others.size else np.nan, filled)


def _posterior_rates(counts: FloatArray) -> FloatArray:
    if not counts.any():
        return np.full(counts.shape, RULE_OF_THREE)
    mean, excess = float(counts.mean()), float(counts.var() - counts.mean())
    shape = max(mean**2 / excess, 1.0) if excess > 0 else np.inf
    return np.full(counts.shape, mean) if np.isinf(shape) else (counts + shape) * mean / (mean + shape)
