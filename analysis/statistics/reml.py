"""Restricted maximum likelihood for linear mixed models with crossed random intercepts.

``y = X b + sum_k Z_k u_k + e`` with ``u_k ~ N(0, var_k I)`` and ``e ~ N(0, var_e I)``. Only cross products of the q
random levels are kept, so nothing of size n x n is ever built: with ``M = I + Z G Z'`` (G: variance ratios
``var_k / var_e``) every term follows from a q x q Cholesky factor (Woodbury). Rows may fall into independent blocks
with the same variances (random effects nested in a group), each with its own factor.

Source: Patterson and Thompson 1971; Bates et al. 2015 (lme4) for the profiled criterion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from threadpoolctl import threadpool_limits

from transfergrid.analysis.arrays import FloatArray, IntArray
from transfergrid.analysis.statistics.levels import count_levels
from transfergrid.analysis.statistics.reml_criterion import Block, State, cross_products, evaluate

_MAX_STEPS = 500
_SMALL_RATIO = 1e-2
_LARGEST_LOG_RATIO = 18.0
_MAX_RESTARTS = 10
_FLAT = 1e-3
_SAME_CRITERION = 1e-6


class FitError(Exception):
    """A mixed model that cannot be fitted; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class RemlFit:
    """A fitted model with K random components."""

    names: tuple[str, ...]
    """Shape [K]: the random components."""
    fixed: FloatArray
    """Shape [p]: estimates of the fixed effects."""
    fixed_se: FloatArray
    """Shape [p]: their standard errors."""
    variances: FloatArray
    """Shape [K + 1]: of every component, the residual last."""
    information: FloatArray
    """Shape [K + 1, K + 1]: expected information of the variances."""
    criterion: float
    """-2 x restricted log-likelihood."""
    n_rows: int

    @property
    def singular(self) -> tuple[str, ...]:
        """Components whose variance is estimated as zero."""
        return tuple(name for name, value in zip(self.names, self.variances, strict=False) if value == 0)


def fit_reml(
    y: FloatArray,
    components: Mapping[str, IntArray],
    *,
    fixed: FloatArray | None = None,
    blocks: IntArray | None = None,
) -> RemlFit:
    """Fit a mixed model by REML.

    Args:
        y: Shape [n], the response.
        components: Random intercepts: name to level codes 0.., shape [n] each.
        fixed: Shape [n, p], fixed columns of full rank; None: an intercept.
        blocks: Shape [n], codes 0.. of groups whose random levels are their own (nesting); None: one block.

    Raises:
        FitError: If there are fewer than 3 rows, the response is not finite or does not vary, a component has one
            level or as many levels as rows, two components are the same grouping, they leave no residual, or the
            optimiser does not converge.
    """
    x = np.ones((len(y), 1)) if fixed is None else fixed
    groups = np.zeros(len(y), dtype=np.intp) if blocks is None else blocks
    _check(y, components, groups)
    scale = float(y.std())
    center = float(y.mean()) if fixed is None else 0.0
    parts = cross_products((y - center) / scale, x, list(components.values()), groups)
    # the matrices are small: a second BLAS thread waits more than it works, on a busy machine for seconds
    with threadpool_limits(limits=1, user_api="blas"):
        ratios = _optimise(parts, len(components), len(y) - x.shape[1])
        state = evaluate(parts, ratios, len(y) - x.shape[1])
    offset = np.zeros(x.shape[1])
    offset[0] = center if fixed is None else 0.0
    variances = state.sigma2 * scale**2 * np.append(ratios, 1.0)
    return RemlFit(
        names=tuple(components),
        fixed=state.fixed * scale + offset,
        fixed_se=np.sqrt(np.diag(state.fixed_cov)) * scale,
        variances=variances,
        information=_information(state, ratios, len(y) - x.shape[1]) / variances[-1] ** 2,
        criterion=state.criterion + 2 * (len(y) - x.shape[1]) * np.log(scale),
        n_rows=len(y),
    )


def _check(y: FloatArray, components: Mapping[str, IntArray], groups: IntArray) -> None:
    combined = {name: groups * (int(codes.max()) + 1) + codes for name, codes in components.items() if len(codes)}
    check_components(combined, len(y))
    if not np.isfinite(y).all():
        raise FitError("the deltas are not finite")
    if np.ptp(y) < 1e-12:
        raise FitError("every delta is the same, so there is no variance to decompose")


def check_components(components: Mapping[str, IntArray], n_rows: int) -> None:
    """Refuse random intercepts that cannot be told from the mean, the residual or each other.

    Args:
        components: Name to level codes 0.., shape [n] each.
        n_rows: Number n of rows.

    Raises:
        FitError: If there are fewer than 3 rows, a component has one level or as many levels as rows, or two
            components are the same grouping.
    """
    if n_rows < 3:
        raise FitError(f"{n_rows} rows are too few for a mixed model")
    for name, codes in components.items():
        levels = count_levels(codes)
        if levels < 2:
            raise FitError(f"component {name!r} has one level, so its variance cannot be told from the mean")
        if levels == n_rows:
            raise FitError(f"component {name!r} has one row per level, so it cannot be told from the residual")
    names = list(components)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if same_grouping(components[first], components[second]):
                raise FitError(f"components {first!r} and {second!r} group the rows alike and cannot be told apart")


def same_grouping(first: IntArray, second: IntArray) -> bool:
    """Whether two codings, shape [n] each, put the same rows together."""
    pairs = first * (int(second.max(initial=0)) + 1) + second
    return count_levels(pairs) == count_levels(first) == count_levels(second)


def _optimise(blocks: Sequence[Block], n_components: int, df: int) -> FloatArray:
    """Return the ratios of the lowest criterion, shape [K]; at a zero the criterion rises with the ratio."""
    start = np.ones(n_components)
    for _ in range(_MAX_RESTARTS):
        ratios = _settle_zeros(blocks, _descend(blocks, start, df), df)
        gradient = evaluate(blocks, ratios, df).gradient
        falls_at_zero = (ratios == 0) & (gradient < -_FLAT)
        if not falls_at_zero.any() and (np.abs(ratios * gradient) < _FLAT).all():
            return ratios
        start = np.where(falls_at_zero, _SMALL_RATIO, ratios)
    raise FitError("REML found no lowest point: the components leave no residual or can hardly be told apart")


def _descend(blocks: Sequence[Block], start: FloatArray, df: int) -> FloatArray:
    """Minimise over log(1 + ratio), whose slope at zero is 1.

    A square root has slope 0 there: a component that once touched zero could never leave it.
    """

    def criterion(logs: FloatArray) -> tuple[float, FloatArray]:
        state = evaluate(blocks, np.expm1(logs), df)
        return state.criterion, np.exp(logs) * state.gradient

    found = optimize.minimize(
        criterion,
        np.log1p(start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, _LARGEST_LOG_RATIO)] * len(start),
        options={"maxiter": _MAX_STEPS, "ftol": 1e-14, "gtol": 1e-7},
    )
    if found.nit >= _MAX_STEPS:
        raise FitError(
            f"the REML optimiser did not converge in {_MAX_STEPS} steps; the components can hardly be told apart"
        )
    ratios: FloatArray = np.expm1(found.x)
    return ratios


def _settle_zeros(blocks: Sequence[Block], ratios: FloatArray, df: int) -> FloatArray:
    """Set a small ratio to zero where the criterion is not higher there, which makes zero its optimum."""
    settled = ratios.copy()
    lowest = evaluate(blocks, settled, df).criterion
    for component in np.flatnonzero((ratios > 0) & (ratios < _SMALL_RATIO)):
        candidate = settled.copy()
        candidate[component] = 0.0
        state = evaluate(blocks, candidate, df)
        if state.gradient[component] >= 0 and state.criterion <= lowest + _SAME_CRITERION:
            settled, lowest = candidate, state.criterion
    return settled


def _information(state: State, ratios: FloatArray, df: int) -> FloatArray:
    """Expected information of the K + 1 variances at residual variance 1."""
    with_residual = state.traces - state.squares @ ratios
    residual = df - float(state.traces @ ratios) - float(with_residual @ ratios)
    information = np.empty((len(ratios) + 1, len(ratios) + 1))
    information[:-1, :-1] = state.squares
    information[:-1, -1] = information[-1, :-1] = with_residual
    information[-1, -1] = residual
    return 0.5 * information
