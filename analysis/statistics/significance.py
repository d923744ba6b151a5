"""Tests and standard errors of paired differences, and the control of false discoveries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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
        Benjamini and Hochberg 1995, step-up.
    """
    q_values = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    n_tests = len(order)
    if n_tests:
        scaled = p_values[order] * n_tests / np.arange(1, n_tests + 1)
        q_values[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q_values


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


def crossed_standard_error(sums: PairedSums) -> StandardErrors:
    """Return the standard error of mean differences when the same items are scored in every seed.

    Items and seeds are two crossed random factors: var = (MS items + MS seeds - MS residual) / (items x seeds),
    with Satterthwaite's degrees of freedom. A factor whose mean square is not above the residual's counts as
    having no variance of its own. With one seed this is the standard error of the paired difference.

    Source:
        Two-way random-effects analysis of variance; Satterthwaite 1946.
    """
    items, seeds = sums.n_items, sums.n_seeds
    with np.errstate(invalid="ignore", divide="ignore"):
        cells = items * seeds
        total = sums.squares - cells * sums.mean**2
        ms_items = seeds * sums.between_items / (items - 1)
        ms_seeds = items * sums.between_seeds / (seeds - 1)
        ms_residual = np.maximum(
            (total - seeds * sums.between_items - items * sums.between_seeds) / ((items - 1) * (seeds - 1)), 0.0
        )
        both = ms_items + ms_seeds - ms_residual
        df_both = both**2 / (
            ms_items**2 / (items - 1) + ms_seeds**2 / (seeds - 1) + ms_residual**2 / ((items - 1) * (seeds - 1))
        )
        only_items = (seeds < 2) | (ms_seeds <= ms_residual)
        only_seeds = ~only_items & (ms_items <= ms_residual)
        mean_square = np.where(only_items, ms_items, np.where(only_seeds, ms_seeds, both))
        df = np.where(only_items, items - 1, np.where(only_seeds, seeds - 1, df_both))
        se = np.sqrt(mean_square / cells)
    usable = items >= 2
    return StandardErrors(np.where(usable, se, np.nan), np.where(usable, df, np.nan))


def holds_fdr(q_values: FloatArray, fdr: float) -> npt.NDArray[np.bool_]:
    """Return where a test is rejected at a false discovery rate; NaN is not rejected."""
    return np.nan_to_num(q_values, nan=2.0) <= fdr
