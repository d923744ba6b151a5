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
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits

from transfergrid.analysis.statistics.bootstrap import count_levels

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

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


class _Block(NamedTuple):
    """Cross products of one independent block: q random columns, p fixed columns."""

    zz: FloatArray
    zx: FloatArray
    zy: FloatArray
    xx: FloatArray
    xy: FloatArray
    yy: float
    component: IntArray
    """Shape [q]: component of every random column."""


class _State(NamedTuple):
    """What one vector of variance ratios implies."""

    criterion: float
    sigma2: float
    fixed: FloatArray
    fixed_cov: FloatArray
    gradient: FloatArray
    """Shape [K]: derivative of the criterion by the ratios."""
    projected: FloatArray
    """Shape [K]: squared norms of ``Z_k' P y``."""
    traces: FloatArray
    """Shape [K]: ``tr(Z_k' P Z_k)``."""
    squares: FloatArray
    """Shape [K, K]: squared Frobenius norms of ``Z_k' P Z_l``."""


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
    parts = _cross_products((y - center) / scale, x, list(components.values()), groups)
    # the matrices are small: a second BLAS thread waits more than it works, on a busy machine for seconds
    with threadpool_limits(limits=1, user_api="blas"):
        ratios = _optimise(parts, len(components), len(y) - x.shape[1])
        state = _evaluate(parts, ratios, len(y) - x.shape[1])
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


def _cross_products(y: FloatArray, x: FloatArray, codes: Sequence[IntArray], groups: IntArray) -> list[_Block]:
    return [
        _block(y[rows], x[rows], [_compact(each[rows]) for each in codes])
        for rows in (np.flatnonzero(groups == group) for group in np.unique(groups))
    ]


def _compact(codes: IntArray) -> IntArray:
    compact: IntArray = np.unique(codes, return_inverse=True)[1].astype(np.intp)
    return compact


def _block(y: FloatArray, x: FloatArray, codes: Sequence[IntArray]) -> _Block:
    sizes = [int(each.max()) + 1 for each in codes]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
    q = int(starts[-1])
    columns = [each + start for each, start in zip(codes, starts[:-1], strict=True)]
    zz = np.zeros((q, q))
    for first in columns:
        for second in columns:
            zz += np.bincount(first * q + second, minlength=q * q).reshape(q, q)
    zx = np.zeros((q, x.shape[1]))
    zy = np.zeros(q)
    for each in columns:
        zy += np.bincount(each, weights=y, minlength=q)
        for column in range(x.shape[1]):
            zx[:, column] += np.bincount(each, weights=x[:, column], minlength=q)
    component = np.repeat(np.arange(len(codes)), sizes)
    return _Block(zz, zx, zy, x.T @ x, x.T @ y, float(y @ y), component)


class _Solved(NamedTuple):
    """Products with M^-1 of one block: t for Z or X, r for y."""

    log_det: float
    tzz: FloatArray
    tzx: FloatArray
    tzy: FloatArray
    txx: FloatArray
    txy: FloatArray
    tyy: float


def _solve(block: _Block, ratios: FloatArray) -> _Solved:
    root = np.sqrt(ratios)[block.component]
    inner = root[:, None] * block.zz * root
    inner[np.diag_indices_from(inner)] += 1.0
    # LAPACK directly: scipy's wrappers cost as much as the work at this size
    factor, _ = linalg.lapack.dpotrf(inner, lower=1, clean=1, overwrite_a=1)
    stacked = root[:, None] * np.concatenate([block.zz, block.zx, block.zy[:, None]], axis=1)
    half, _ = linalg.lapack.dtrtrs(factor, np.asfortranarray(stacked), lower=1, overwrite_b=1)
    q, p = block.zx.shape
    z, x, y = half[:, :q], half[:, q : q + p], half[:, -1]
    return _Solved(
        2.0 * float(np.log(np.diag(factor)).sum()),
        block.zz - z.T @ z,
        block.zx - z.T @ x,
        block.zy - z.T @ y,
        block.xx - x.T @ x,
        block.xy - x.T @ y,
        block.yy - float(y @ y),
    )


def _evaluate(blocks: Sequence[_Block], ratios: FloatArray, df: int) -> _State:
    solved = [_solve(block, ratios) for block in blocks]
    txx = np.sum([each.txx for each in solved], axis=0)
    txy = np.sum([each.txy for each in solved], axis=0)
    inverse = np.linalg.inv(txx)
    fixed = inverse @ txy
    rss = sum(each.tyy for each in solved) - float(txy @ fixed)
    sigma2 = max(rss, 1e-300) / df
    log_det = sum(each.log_det for each in solved) + float(np.linalg.slogdet(txx)[1])
    criterion = log_det + df * (1 + np.log(2 * np.pi * sigma2))
    projected, traces, squares = _components(blocks, solved, inverse, fixed, len(ratios))
    gradient = traces - projected / sigma2
    return _State(criterion, sigma2, fixed, sigma2 * inverse, gradient, projected, traces, squares)


def _components(
    blocks: Sequence[_Block], solved: Sequence[_Solved], inverse: FloatArray, fixed: FloatArray, n_components: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return ||Z_k' P y||^2 [K], tr(Z_k' P Z_k) [K] and ||Z_k' P Z_l||^2 [K, K], summed over the blocks."""
    projected, traces = np.zeros(n_components), np.zeros(n_components)
    squares = np.zeros((n_components, n_components))
    outer = np.zeros((n_components, *inverse.shape))
    for block, each in zip(blocks, solved, strict=True):
        starts = np.searchsorted(block.component, np.arange(n_components))
        residual = each.tzy - each.tzx @ fixed
        projected += np.add.reduceat(residual**2, starts)
        adjusted = each.tzx @ inverse
        traces += np.add.reduceat(np.diag(each.tzz) - (adjusted * each.tzx).sum(axis=1), starts)
        crossed = each.tzz**2 - 2 * each.tzz * (adjusted @ each.tzx.T)
        squares += np.add.reduceat(np.add.reduceat(crossed, starts, axis=0), starts, axis=1)
        outer += np.add.reduceat(each.tzx[:, :, None] * each.tzx[:, None, :], starts, axis=0)
    weighted = inverse @ outer
    squares += np.tensordot(weighted, weighted, axes=([1, 2], [2, 1]))
    return projected, traces, squares


def _optimise(blocks: Sequence[_Block], n_components: int, df: int) -> FloatArray:
    """Return the ratios of the lowest criterion, shape [K]; at a zero the criterion rises with the ratio."""
    start = np.ones(n_components)
    for _ in range(_MAX_RESTARTS):
        ratios = _settle_zeros(blocks, _descend(blocks, start, df), df)
        gradient = _evaluate(blocks, ratios, df).gradient
        falls_at_zero = (ratios == 0) & (gradient < -_FLAT)
        if not falls_at_zero.any() and (np.abs(ratios * gradient) < _FLAT).all():
            return ratios
        start = np.where(falls_at_zero, _SMALL_RATIO, ratios)
    raise FitError("REML found no lowest point: the components leave no residual or can hardly be told apart")


def _descend(blocks: Sequence[_Block], start: FloatArray, df: int) -> FloatArray:
    """Minimise over log(1 + ratio), whose slope at zero is 1.

    A square root has slope 0 there: a component that once touched zero could never leave it.
    """

    def criterion(logs: FloatArray) -> tuple[float, FloatArray]:
        state = _evaluate(blocks, np.expm1(logs), df)
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


def _settle_zeros(blocks: Sequence[_Block], ratios: FloatArray, df: int) -> FloatArray:
    """Set a small ratio to zero where the criterion is not higher there, which makes zero its optimum."""
    settled = ratios.copy()
    lowest = _evaluate(blocks, settled, df).criterion
    for component in np.flatnonzero((ratios > 0) & (ratios < _SMALL_RATIO)):
        candidate = settled.copy()
        candidate[component] = 0.0
        state = _evaluate(blocks, candidate, df)
        if state.gradient[component] >= 0 and state.criterion <= lowest + _SAME_CRITERION:
            settled, lowest = candidate, state.criterion
    return settled


def _information(state: _State, ratios: FloatArray, df: int) -> FloatArray:
    """Expected information of the K + 1 variances at residual variance 1."""
    with_residual = state.traces - state.squares @ ratios
    residual = df - float(state.traces @ ratios) - float(with_residual @ ratios)
    information = np.empty((len(ratios) + 1, len(ratios) + 1))
    information[:-1, :-1] = state.squares
    information[:-1, -1] = information[-1, :-1] = with_residual
    information[-1, -1] = residual
    return 0.5 * information
