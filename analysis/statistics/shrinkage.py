"""Conditional means of pairs' true deltas, from noisy deltas whose noise is known.

``delta = regime mean + source + target + pair + shared noise of the target + own noise``. The first four are the
truth, the last two are measured (`pair_noise`). The standard deviations of source, target and pair maximise the
restricted likelihood times their product: a gamma(2) prior with rate towards zero, which keeps each away from zero
by about its standard error where REML would put it at zero (Chung et al. 2013). Everything else follows from one
Cholesky factor of Henderson's mixed model equations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits

from transfergrid.analysis.records import SOURCE, TARGET
from transfergrid.analysis.statistics.bootstrap import level_codes
from transfergrid.analysis.statistics.pair_noise import PairNoise, matrix_root
from transfergrid.analysis.statistics.reml import check_components
from transfergrid.grid import Regime

FloatArray = npt.NDArray[np.float64]


class Shrunken(NamedTuple):
    """True deltas of N pairs given the observed ones."""

    mean: FloatArray
    """Shape [N], pp."""
    variance: FloatArray
    """Shape [N], pp^2."""
    deviations: FloatArray
    """Shape [3]: standard deviations of source, target and pair, pp."""


class _Model(NamedTuple):
    y: FloatArray
    columns: FloatArray
    """Shape [N, q]: fixed effects, sources, targets, shared noise at variance 1."""
    part: npt.NDArray[np.intp]
    """Shape [q]: 0 fixed, 1 source, 2 target, 3 shared noise."""
    own: FloatArray


class _Solved(NamedTuple):
    criterion: float
    scale: FloatArray
    factor: FloatArray
    effects: FloatArray


def shrink(pairs: pl.DataFrame, observed: FloatArray, noise: PairNoise) -> Shrunken:
    """Return conditional mean and variance of every pair's true delta.

    Args:
        pairs: N pairs with source, target and regime columns.
        observed: Shape [N], pp.
        noise: Of the observed deltas around the true ones. Where a pair's own noise is not known the others' mean
            is taken. Where none is known, a pair's own deviation counts as noise for the estimate and as truth for
            the variance.

    Raises:
        FitError: If there are fewer than 3 pairs, or source or target cannot be told from the mean or the pair.
    """
    codes = {"source": level_codes(pairs, SOURCE), "target": level_codes(pairs, TARGET)}
    check_components(codes, len(observed))
    known = np.isfinite(noise.own)
    own = np.where(known, noise.own, noise.own[known].mean() if known.any() else 0.0)
    members = [np.eye(int(each.max()) + 1)[each] for each in codes.values()]
    blocks = [
        _regime_columns(pairs),
        *members,
        noise.loading[:, None] * matrix_root(noise.correlation)[codes["target"]],
    ]
    part = np.repeat(np.arange(4), [block.shape[1] for block in blocks])
    model = _Model(observed, np.concatenate(blocks, axis=1), part, own)
    # a pair that moves far by chance also measures more noise, so the fit sees every target's mean noise
    even = model._replace(own=members[1] @ (members[1].T @ own / members[1].sum(axis=0)))
    # the matrices are small: a second BLAS thread waits more than it works
    with threadpool_limits(limits=1, user_api="blas"):
        deviations = _fit(even)
        return _predict(model, deviations, noise_known=bool(known.any()))


def _regime_columns(pairs: pl.DataFrame) -> FloatArray:
    """Shape [N, p]: an intercept, and indicators of the regimes after the first that occurs."""
    regimes = [regime.value for regime in Regime if (pairs["regime"] == regime.value).any()]
    columns = [np.ones(pairs.height), *((pairs["regime"] == name).to_numpy().astype(float) for name in regimes[1:])]
    return np.stack(columns, axis=1)


def _fit(model: _Model) -> FloatArray:
    size = float(np.sqrt(model.y.var() + model.own.mean()))

    def criterion(logs: FloatArray) -> float:
        return _solve(model, size * np.exp(logs)).criterion - 2 * float(logs.sum())

    found = optimize.minimize(criterion, np.full(3, np.log(0.5)), method="L-BFGS-B", bounds=[(-7.0, 5.0)] * 3)
    deviations: FloatArray = size * np.exp(found.x)
    return deviations


def _solve(model: _Model, deviations: FloatArray) -> _Solved:
    """Return -2 x restricted log-likelihood (up to a constant) and the effects at variance 1, shape [q]."""
    rest = deviations[2] ** 2 + model.own
    scale = np.array([1.0, deviations[0], deviations[1], 1.0])[model.part]
    weighted = model.columns / rest[:, None]
    inner = scale[:, None] * (model.columns.T @ weighted) * scale
    inner[np.diag_indices_from(inner)] += model.part > 0
    right = scale * (weighted.T @ model.y)
    factor = linalg.cholesky(inner, lower=True)
    half = linalg.solve_triangular(factor, right, lower=True)
    log_det = float(np.log(rest).sum()) + 2 * float(np.log(np.diag(factor)).sum())
    criterion = log_det + float((model.y**2 / rest).sum()) - float(half @ half)
    return _Solved(criterion, scale, factor, linalg.solve_triangular(factor, half, lower=True, trans="T"))


def _predict(model: _Model, deviations: FloatArray, *, noise_known: bool) -> Shrunken:
    """Regime + source + target + pair; the pair is its share of what is left, the shared noise taken off."""
    solved = _solve(model, deviations)
    pair_variance = deviations[2] ** 2
    share = pair_variance / (pair_variance + model.own) if noise_known else np.zeros(len(model.y))
    weight = np.where(model.part == 3, -share[:, None], 1 - share[:, None])
    rows = weight * model.columns * solved.scale
    half = linalg.solve_triangular(solved.factor, rows.T, lower=True)
    left = share * model.own if noise_known else pair_variance
    return Shrunken(rows @ solved.effects + share * model.y, (half**2).sum(axis=0) + left, deviations)
