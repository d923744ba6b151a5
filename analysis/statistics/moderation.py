"""Variances of few degrees of freedom, drawn towards each other: an empirical Bayes prior over many of them.

``s2 ~ v chi2(d) / d`` for every row, ``v`` itself scaled inverse chi-squared around a common value. The prior's
degrees of freedom and value are fitted by the moments of the logs.

Source: Smyth 2004, Linear models and empirical Bayes methods, section 6.2 (limma's ``fitFDist`` and ``squeezeVar``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from transfergrid.analysis.arrays import FloatArray, IntArray

MIN_ROWS = 8
"""Fewer variances than this tell nothing about how much variances differ."""
_LARGEST_DF = 1e6


class Prior(NamedTuple):
    """Where variances lie before a row's own data."""

    variance: float
    df: float
    """Degrees of freedom it is worth; infinity: all variances are one."""


def fit_prior(variances: FloatArray, df: FloatArray) -> Prior:
    """Return the prior of variances by the moments of their logs.

    Args:
        variances: Shape [N], each >= 0. A zero, which comes of counting whole items, is taken for half of the
            smallest other one.
        df: Shape [N], degrees of freedom, each > 0.
    """
    positive = variances[variances > 0]
    if not positive.size:
        return Prior(0.0, np.inf)
    logs = np.log(np.maximum(variances, positive.min() / 2))
    centred = logs - special.digamma(df / 2) + np.log(df / 2)
    excess = float(centred.var(ddof=1) - special.polygamma(1, df / 2).mean())
    found = _inverse_trigamma(excess) * 2
    if found >= _LARGEST_DF:
        return Prior(float(np.average(variances, weights=df)), np.inf)
    return Prior(float(np.exp(centred.mean() + special.digamma(found / 2) - np.log(found / 2))), found)


def _inverse_trigamma(value: float) -> float:
    if value <= float(special.polygamma(1, _LARGEST_DF)):
        return _LARGEST_DF
    return float(optimize.brentq(lambda x: float(special.polygamma(1, x)) - value, 1e-6, _LARGEST_DF))


class Moderated(NamedTuple):
    """Posterior variances of N rows with their degrees of freedom; as they were where there is no prior."""

    variance: FloatArray
    df: FloatArray


def moderate(variances: FloatArray, df: FloatArray, *, groups: IntArray, scale: FloatArray) -> Moderated:
    """Draw the variances of every group towards the group's own prior.

    Args:
        variances: Shape [N]; NaN: not known, stays so.
        df: Shape [N]; rows with 0 are left out.
        groups: Shape [N], codes; variances of a group are alike, such as those of one model. A group of fewer than
            `MIN_ROWS` stays as it is.
        scale: Shape [N], > 0: what is expected of a row's variance relative to the others'.

    Returns:
        ``(d0 v0 + d s2) / (d0 + d)`` with ``d0 + d`` degrees of freedom.
    """
    variance, total = variances.copy(), df.astype(np.float64)
    usable = np.isfinite(variances) & (df > 0) & (scale > 0)
    for group in np.unique(groups[usable]):
        rows = np.flatnonzero(usable & (groups == group))
        if len(rows) < MIN_ROWS:
            continue
        relative = variances[rows] / scale[rows]
        prior = fit_prior(relative, total[rows])
        if np.isinf(prior.df):
            variance[rows] = prior.variance * scale[rows]
        else:
            weights = prior.df + total[rows]
            variance[rows] = scale[rows] * (prior.df * prior.variance + total[rows] * relative) / weights
        total[rows] += prior.df
    return Moderated(variance, total)
