"""The restricted criterion and its derivatives from cross products; see `reml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import linalg

from transfergrid.analysis.arrays import FloatArray, IntArray


class Block(NamedTuple):
    """Cross products of one independent block: q random columns, p fixed columns."""

    zz: FloatArray
    zx: FloatArray
    zy: FloatArray
    xx: FloatArray
    xy: FloatArray
    yy: float
    component: IntArray
    """Shape [q]: component of every random column."""


class State(NamedTuple):
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


def cross_products(y: FloatArray, x: FloatArray, codes: Sequence[IntArray], groups: IntArray) -> list[Block]:
    """Return the cross products of every independent block of rows.

    Args:
        y: Shape [n].
        x: Shape [n, p].
        codes: Level of every row, shape [n], for each of K components.
        groups: Shape [n]: the block of every row.
    """
    return [
        _block(y[rows], x[rows], [_compact(each[rows]) for each in codes])
        for rows in (np.flatnonzero(groups == group) for group in np.unique(groups))
    ]


def _compact(codes: IntArray) -> IntArray:
    compact: IntArray = np.unique(codes, return_inverse=True)[1].astype(np.intp)
    return compact


def _block(y: FloatArray, x: FloatArray, codes: Sequence[IntArray]) -> Block:
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
    return Block(zz, zx, zy, x.T @ x, x.T @ y, float(y @ y), component)


class _Solved(NamedTuple):
    """Products with M^-1 of one block: t for Z or X, r for y."""

    log_det: float
    tzz: FloatArray
    tzx: FloatArray
    tzy: FloatArray
    txx: FloatArray
    txy: FloatArray
    tyy: float


def _solve(block: Block, ratios: FloatArray) -> _Solved:
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


def evaluate(blocks: Sequence[Block], ratios: FloatArray, df: int) -> State:
    """Return the criterion and its parts at K variance ratios, shape [K]; ``df`` is n - p."""
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
    return State(criterion, sigma2, fixed, sigma2 * inverse, gradient, projected, traces, squares)


def _components(
    blocks: Sequence[Block], solved: Sequence[_Solved], inverse: FloatArray, fixed: FloatArray, n_components: int
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
