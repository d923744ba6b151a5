"""Tests and standard errors of paired differences, and the control of false discoveries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special, stats

from transfergrid.analysis.arrays import BoolArray, FloatArray, IntArray
from transfergrid.analysis.statistics.moderation import moderate

EXACT_MCNEMAR = "exact McNemar"
"""Name of the test of one seed's right and wrong answers."""


def mcnemar_exact_p(n_only_base: IntArray, n_only_adapter: IntArray) -> FloatArray:
    """Return the two-sided exact McNemar p of paired right/wrong answers.

    Args:
        n_only_base: Shape [N], items only the baseline answers right.
        n_only_adapter: Shape [N], items only the adapter answers right.

    Returns:
        Shape [N]; 1 where no item changed.

    Source:
        McNemar 1947 with the binomial distribution, as ``statsmodels.stats.contingency_tables.mcnemar(exact=True)``.
    """
    base, adapter = np.asarray(n_only_base, dtype=np.int64), np.asarray(n_only_adapter, dtype=np.int64)
    tail = special.bdtr(np.minimum(base, adapter).astype(np.float64), base + adapter, 0.5)
    return np.asarray(np.minimum(1.0, 2.0 * tail), dtype=np.float64)


def t_test_p(statistic: FloatArray, df: FloatArray) -> FloatArray:
    """Return the two-sided p of t statistics, shape [N], with their degrees of freedom, shape [N]."""
    return np.asarray(2.0 * special.stdtr(df, -np.abs(statistic)), dtype=np.float64)


def benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    """Return the adjusted p (q) of every test of one family.

    Args:
        p_values: Shape [N]; NaN: no test there, not counted in the family.

    Returns:
        Shape [N]; NaN where there was no test. ``q <= fdr`` rejects at that false discovery rate.

    Source:
        Benjamini and Hochberg 1995, step-up, as in SciPy.
    """
    q_values = np.full(len(p_values), np.nan)
    tested = ~np.isnan(p_values)
    q_values[tested] = stats.false_discovery_control(p_values[tested])
    return q_values


def beyond_cut_p(delta_pp: FloatArray, se_pp: FloatArray, df: FloatArray, cut_pp: float) -> FloatArray:
    """Return the one-sided p of ``true delta >= cut``, shape [N]: small where a row lies beyond the harm cut for sure.

    A t test of the paired difference; NaN where the standard error is 0 or not known.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(se_pp > 0, special.stdtr(df, (delta_pp - cut_pp) / se_pp), np.nan)


def harm_by_chance(n_changed: FloatArray, n_items: FloatArray, cut_pp: float) -> FloatArray:
    """Return the probability that a delta of one seed is at or below the cut if every change is a coin flip.

    Args:
        n_changed: Shape [N], items that changed from right to wrong or back; NaN: not known.
        n_items: Shape [N], items of the target.
        cut_pp: The harm cut, <= 0.

    Returns:
        Shape [N]: ``P(lost - won >= k)`` with ``k = ceil(-cut n / 100)``, exact on the counts; NaN: not known.
    """
    least = np.ceil(-cut_pp / 100 * n_items - 1e-9)
    return np.asarray(stats.binom.cdf(np.floor((n_changed - least) / 2), n_changed, 0.5), dtype=np.float64)


class PairedSums(NamedTuple):
    """Sums over the items and seeds of N (model, source, target) rows; differences are -1, 0 or 1."""

    n_items: FloatArray
    """Shape [N]: items scored in every seed."""
    n_seeds: FloatArray
    """Shape [N]."""
    mean: FloatArray
    """Shape [N]: mean difference over items and seeds."""
    between_items: FloatArray
    """Shape [N]: sum over items of (the item's mean over seeds - mean)^2."""
    between_seeds: FloatArray
    """Shape [N]: sum over seeds of (the seed's mean over items - mean)^2."""
    squares: FloatArray
    """Shape [N]: sum over items and seeds of the squared difference."""


class StandardErrors(NamedTuple):
    """Standard error of a mean difference, in the unit of the differences, with its degrees of freedom."""

    se: FloatArray
    df: FloatArray


def crossed_standard_error(sums: PairedSums, models: IntArray, redrawn: BoolArray) -> StandardErrors:
    """Return the standard error of mean differences over items and seeds.

    The same items in every seed: items and seeds are two crossed random factors, var = (MS items + MS seeds - MS
    residual) / (items x seeds), with Satterthwaite's degrees of freedom. Items redrawn in every seed: var = MS seeds /
    (items x seeds), and the residual is what items vary within a seed. A factor whose mean square is not above the
    residual's counts as having no variance of its own. With one seed this is the standard error of the paired
    difference. Three seeds leave two degrees of freedom, so the mean squares of seeds of a model are moderated.

    Args:
        sums: Sums of N rows.
        models: Shape [N], codes; rows of one model are alike in what seeds do.
        redrawn: Shape [N]: whether every seed has items of its own.

    Source:
        Two-way random-effects analysis of variance; Satterthwaite 1946; Smyth 2004 (`moderate`).
    """
    items, seeds = sums.n_items, sums.n_seeds
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = _mean_squares(sums, redrawn)
        expected = squares.residual + _mean_excess(squares, models)
        of_seeds, df_seeds = moderate(squares.seeds, np.maximum(seeds - 1, 0), groups=models, scale=expected)
        both = np.where(redrawn, of_seeds, squares.items + of_seeds - squares.residual)
        df_both = both**2 / (
            np.where(redrawn, 0.0, squares.items**2 / (items - 1) + squares.residual**2 / squares.df_residual)
            + of_seeds**2 / df_seeds
        )
        only_items = (seeds < 2) | (of_seeds <= squares.residual)
        only_seeds = ~only_items & ~redrawn & (squares.items <= squares.residual)
        mean_square = np.where(only_items, squares.items, np.where(only_seeds, of_seeds, both))
        df_items = np.where(redrawn, seeds * (items - 1), items - 1)
        df = np.where(only_items, df_items, np.where(only_seeds, df_seeds, df_both))
        se = np.sqrt(mean_square / (items * seeds))
    usable = items >= 2
    return StandardErrors(np.where(usable, se, np.nan), np.where(usable, df, np.nan))


class _MeanSquares(NamedTuple):
    items: FloatArray
    seeds: FloatArray
    residual: FloatArray
    df_residual: FloatArray


def _mean_squares(sums: PairedSums, redrawn: BoolArray) -> _MeanSquares:
    items, seeds = sums.n_items, sums.n_seeds
    of_seeds = items * sums.between_seeds / (seeds - 1)
    total = sums.squares - items * seeds * sums.mean**2
    left = total - items * sums.between_seeds
    within = np.maximum(left / (seeds * (items - 1)), 0.0)
    df_crossed = (items - 1) * (seeds - 1)
    crossed = np.maximum((left - seeds * sums.between_items) / df_crossed, 0.0)
    return _MeanSquares(
        np.where(redrawn, within, seeds * sums.between_items / (items - 1)),
        of_seeds,
        np.where(redrawn, within, crossed),
        np.where(redrawn, seeds * (items - 1), df_crossed),
    )


def _mean_excess(squares: _MeanSquares, models: IntArray) -> FloatArray:
    """Return what seeds add to their mean square on average over a row's model, shape [N], >= 0."""
    known = np.isfinite(squares.seeds - squares.residual)
    size = int(models.max(initial=-1)) + 1
    total = np.bincount(models[known], weights=(squares.seeds - squares.residual)[known], minlength=size)
    found: FloatArray = np.maximum(total / np.maximum(np.bincount(models[known], minlength=size), 1), 0.0)[models]
    return found


def holds_fdr(q_values: FloatArray, fdr: float) -> BoolArray:
    """Return where a test is rejected at a false discovery rate; NaN is not rejected."""
    return np.nan_to_num(q_values, nan=2.0) <= fdr
