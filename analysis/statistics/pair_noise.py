"""Noise of the deltas of (source, target) pairs: what is a pair's own, and what all sources of a target share.

All sources of a target are compared with the same baseline answers to the same items, so their deltas err together.
The item-wise differences say by how much: their covariance between two sources of one target is the shared part, of
which every source takes as much as its own answers covary with the others' (one factor per target, correlated
between the languages of a task, whose items are the same). An adapter that changes little shares little. A source's
deltas on the languages of a task err together, too, since its answers to an item are alike in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import BoolArray, FloatArray, IntArray
from transfergrid.analysis.records import PAIR, SOURCE, TARGET, ItemBlock
from transfergrid.analysis.statistics.levels import level_codes

RULE_OF_THREE = 3.0
"""Items that may change at most (95 %) where none of n did: 3 / n of them (Hanley and Lippman-Hand 1983)."""


LARGEST_SHARE = 0.9
"""Of a pair's noise at most this is shared with the other sources of its target."""
N_SHARED = 2
"""Independent noises that the sources of a target share."""


class PairNoise(NamedTuple):
    """Noise of N pairs on T targets, in pp around the true deltas."""

    own: FloatArray
    """Shape [N]: variance of a pair's own noise, pp^2, > 0; NaN: not known."""
    loading: FloatArray
    """Shape [N, F]: standard deviations of what a pair shares with the other sources of its target, pp."""
    correlation: FloatArray
    """Shape [T, T]: of the shared noise between targets; T in the order of `level_codes`."""
    from_items: BoolArray
    """Shape [N]: whether there are items to tell shared noise by."""
    of_source: FloatArray
    """Shape [N]: standard deviation of what a pair shares with its source's other targets of the task, pp."""
    source_task: IntArray
    """Shape [N]: codes of (source, task of the target)."""

    @property
    def variance(self) -> FloatArray:
        """Shape [N]: own and shared noise together, pp^2."""
        total: FloatArray = self.own + (self.loading**2).sum(axis=1) + self.of_source**2
        return total


def independent_noise(own: FloatArray, n_targets: int) -> PairNoise:
    """Return noise that no two pairs share, from variances of shape [N]."""
    n = len(own)
    return PairNoise(
        own, np.zeros((n, N_SHARED)), np.eye(n_targets), np.zeros(n, np.bool_), np.zeros(n), np.zeros(n, np.intp)
    )


def measure_noise(rows: pl.DataFrame, pairs: pl.DataFrame, items: Sequence[ItemBlock]) -> PairNoise:
    """Return the noise of every pair's mean delta over the models that have it.

    Args:
        rows: Transfer rows with ``delta_pp`` and ``se_pp``, of the chosen models and regimes.
        pairs: One row per (source, target) of them, with ``n_models``.
        items: Item-wise differences; pairs without any have the standard errors only, and share nothing.
    """
    keys = pairs.select(*PAIR, "n_models").with_row_index("pair")
    numbered = rows.select("model", *PAIR, "se_pp").join(keys, on=list(PAIR), validate="m:1")
    sources, targets = level_codes(pairs, SOURCE), level_codes(pairs, TARGET)
    noise = independent_noise(_from_errors(numbered, pairs.height), int(targets.max(initial=-1)) + 1)
    parts = [part for block in items if len((part := _influences(block, numbered)).pairs)]
    one_item = np.full(pairs.height, np.nan)
    for part in parts:
        one_item[part.pairs] = part.one_item
        noise.own[part.pairs] = (part.influence**2).sum(axis=1) + part.seeds
    total = _smooth(noise.own, one_item, sources, targets)
    covariances = [
        Covariance(part.pairs, part.influence @ part.influence.T, sources[part.pairs], targets[part.pairs])
        for part in parts
    ]
    relative = relative_loadings(covariances, sources, total)
    share = source_share(covariances, total)
    for each in covariances:
        loading, correlation = shared_part(each, relative[each.pairs])
        largest = (LARGEST_SHARE - share) * total[each.pairs] / np.maximum((loading**2).sum(axis=1), 1e-12)
        noise.of_source[each.pairs] = np.sqrt(share * total[each.pairs])
        noise.loading[each.pairs] = loading * np.sqrt(np.minimum(largest, 1.0))[:, None]
        places = np.unique(each.targets)
        noise.correlation[np.ix_(places, places)] = correlation
    own = total - (noise.loading**2).sum(axis=1) - noise.of_source**2
    codes = level_codes(pairs, (*SOURCE, "target_task"))
    return noise._replace(own=own, from_items=np.isfinite(one_item), source_task=codes)


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


class Covariance(NamedTuple):
    """Covariance of the noise of n pairs on the targets of one task, from their items."""

    pairs: IntArray
    """Shape [n]: places of the pairs."""
    values: FloatArray
    """Shape [n, n], pp^2."""
    sources: IntArray
    """Shape [n], codes."""
    targets: IntArray
    """Shape [n], codes."""

    @property
    def between(self) -> FloatArray:
        """The same between different sources, 0 elsewhere, shape [n, n]."""
        between: FloatArray = self.values * (self.sources[:, None] != self.sources[None, :])
        return between


def relative_loadings(covariances: Sequence[Covariance], sources: IntArray, total: FloatArray) -> FloatArray:
    """Return what every source takes of two shared noises of a target, relative to the others, shape [N, 2].

    The covariance of two sources of a target, summed over all targets and divided by their standard deviations, is
    fitted as ``a + b (x + y) + c x y``, x and y the logs of the two sources' mean noise. So adapters that change few
    answers may share more with each other than with those that change many, and no loading hangs on its own pair.
    """
    if not covariances:
        return np.zeros((len(sources), N_SHARED))
    size = int(sources.max(initial=-1)) + 1
    noise = np.bincount(sources, weights=np.nan_to_num(total), minlength=size)
    noise = np.maximum(noise / np.maximum(np.bincount(sources, minlength=size), 1), 1e-9)
    found, counts = np.zeros((size, size)), np.zeros((size, size))
    for each in covariances:
        for target in np.unique(each.targets):
            chosen = np.flatnonzero(each.targets == target)
            cells = np.ix_(each.sources[chosen], each.sources[chosen])
            found[cells] += each.between[np.ix_(chosen, chosen)]
            counts[cells] += each.sources[chosen][:, None] != each.sources[chosen]
    logs = np.log(noise) - np.log(noise).mean()
    basis = np.stack([np.ones(size), logs], axis=1)
    first, second = np.nonzero(counts)
    wanted = (found / np.maximum(counts, 1) / np.sqrt(np.outer(noise, noise)))[first, second]
    terms = np.stack([np.ones(len(first)), logs[first] + logs[second], logs[first] * logs[second]], axis=1)
    a, b, c = np.linalg.lstsq(terms, wanted, rcond=1e-3)[0]
    loadings: FloatArray = (basis @ _matrix_root(np.array([[a, b], [b, c]]))) * np.sqrt(noise)[:, None]
    return loadings[sources]


def shared_part(covariance: Covariance, relative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the loadings of n pairs on the shared noises of their targets, and their correlation between targets.

    A loading is the target's level, pooled over all its sources, times the source's relative one. One that was fitted
    to each pair's own items would explain away the target's effect, since the same items make its delta.

    Args:
        covariance: Of n pairs on t targets.
        relative: Shape [n, F], see `relative_loadings`.

    Returns:
        Loadings, shape [n, F], and the correlation, shape [t, t], in the order of the targets' codes.
    """
    columns = np.unique(covariance.targets, return_inverse=True)[1]
    members = np.eye(int(columns.max()) + 1)[columns]
    found = members.T @ covariance.between @ members
    apart = covariance._replace(values=relative @ relative.T).between
    expected = members.T @ apart @ members
    pooled = np.divide(found, expected, out=np.zeros_like(found), where=expected > 0)
    levels = np.sqrt(np.maximum(np.diag(pooled), 0.0))
    scale = np.outer(levels, levels)
    raw = np.divide(pooled, scale, out=np.zeros_like(scale), where=scale > 0)
    np.fill_diagonal(raw, 1.0)
    return levels[columns, None] * relative, nearest_correlation(raw)


def source_share(covariances: Sequence[Covariance], total: FloatArray) -> float:
    """Return the share of a pair's noise that it has in common with its source's other targets of the task.

    The mean correlation of two targets of a task under one source, less that under two sources; one for all pairs.
    """
    sums = np.zeros((2, 2))
    for each in covariances:
        size = np.sqrt(total[each.pairs])
        apart = each.targets[:, None] != each.targets
        same = each.sources[:, None] == each.sources
        sums += [
            [values[apart & same].sum(), values[apart & ~same].sum()] for values in (each.values, np.outer(size, size))
        ]
    one, two = np.divide(sums[0], sums[1], out=np.zeros(2), where=sums[1] > 0)
    return float(np.clip(one - two, 0.0, LARGEST_SHARE / 2))


def _matrix_root(matrix: FloatArray) -> FloatArray:
    """Return R with R R' equal to a symmetric matrix without its negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    root: FloatArray = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def nearest_correlation(raw: FloatArray) -> FloatArray:
    """Return a positive definite correlation matrix near a symmetric one with a diagonal of 1, shape [t, t]."""
    from statsmodels.stats.correlation_tools import corr_clipped

    clipped = np.clip((raw + raw.T) / 2, -1.0, 1.0)
    found: FloatArray = corr_clipped(clipped, threshold=1e-4) if len(raw) > 1 else np.ones((1, 1))
    return found


def _smooth(total: FloatArray, one_item: FloatArray, sources: IntArray, targets: IntArray) -> FloatArray:
    """Draw the number of items behind every variance towards what its source and target make one expect.

    A pair's number of changed items is Poisson, its rate gamma with shape k, by moments, at least 1 (exponential), and
    a mean m that is the product of the source's and the target's mean over the table's: the posterior mean of the
    rate is ``(count + k) m / (m + k)`` (Gelman et al. 2013, 2.6). So no variance is zero, and hardly any is large
    only because the pair moved far by chance. Without a change anywhere the rate is its upper bound. Pairs without
    items take the mean variance of the others for a zero.
    """
    counted = np.isfinite(one_item)
    counts = total[counted] / one_item[counted]
    smoothed = total.copy()
    smoothed[counted] = posterior_rates(counts, sources[counted], targets[counted]) * one_item[counted]
    others = smoothed[smoothed > 0]
    return np.where(smoothed == 0, others.mean() if others.size else np.nan, smoothed)


def posterior_rates(counts: FloatArray, sources: IntArray, targets: IntArray) -> FloatArray:
    """Return the posterior mean number of changed items of n pairs, shape [n], all > 0; see `_smooth`."""
    if not counts.any():
        return np.full(counts.shape, RULE_OF_THREE)
    margins = []
    for codes in (sources, targets):
        n = np.maximum(np.bincount(codes), 1)
        margins.append((np.maximum(np.bincount(codes, counts), RULE_OF_THREE) / n)[codes])
    mean = margins[0] * margins[1] / counts.mean()
    excess = float((((counts - mean) ** 2 - counts) / mean**2).mean())
    shape = max(1 / excess, 1.0) if excess > 0 else np.inf
    rates: FloatArray = mean if np.isinf(shape) else (counts + shape) * mean / (mean + shape)
    return rates
