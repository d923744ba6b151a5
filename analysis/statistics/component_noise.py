"""How much of every variance component is noise of items, which is known from the item-wise differences.

Under REML the estimates solve ``tr(P V_k) = y' P V_k P y``. Noise of items adds its covariance ``B B'`` to that of
``y``, so to first order it moves the estimates by ``F^-1 b / 2`` with ``b_k = tr(P V_k P B B')`` and F the expected
information; exactly so where every source meets every target. ``P B`` follows from one Cholesky factor (Woodbury).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy import linalg, sparse

from transfergrid.analysis.arrays import Float32Array, FloatArray, IntArray
from transfergrid.analysis.statistics.reml import RemlFit


def noise_of_components(
    found: RemlFit, codes: Mapping[str, IntArray], influences: Iterable[tuple[IntArray, Float32Array]]
) -> FloatArray:
    """Return the part of every variance that noise of items makes, shape [K + 1], the residual last; 0 at a zero.

    Args:
        found: The fit, with an intercept as its only fixed effect.
        codes: Levels of its components, shape [N] each; nested ones have levels of their own in every block.
        influences: Rows and what their items add to them, shapes [n] and [n, I], see `item_influences`.
    """
    inside = np.flatnonzero(found.variances[:-1] > 0)
    residual = found.variances[-1]
    part: list[int] = []
    columns = []
    for place in inside:
        levels = np.unique(codes[found.names[place]], return_inverse=True)[1]
        columns.append(levels + len(part))
        part += [int(place)] * (int(levels.max()) + 1)
    q, n = len(part), found.n_rows
    rows = np.tile(np.arange(n), len(inside))
    placed = np.concatenate(columns) if columns else np.zeros(0, dtype=np.intp)
    z = sparse.csr_array((np.ones(len(rows)), (rows, placed)), shape=(n, q))
    ratios = np.sqrt(found.variances[part] / residual)
    factor = linalg.cholesky(np.eye(q) + ratios[:, None] * (z.T @ z).toarray() * ratios, lower=True)
    crossed = (z.T @ z).toarray() * ratios
    half_one = linalg.solve_triangular(factor, ratios * (z.T @ np.ones(n)), lower=True)
    ones = np.ones(n) - z @ (ratios * linalg.solve_triangular(factor, half_one, lower=True, trans="T"))
    b = np.zeros(len(found.variances))
    for index, values in influences:
        of_levels = z[index].T @ values.astype(np.float64)
        half = linalg.solve_triangular(factor, ratios[:, None] * of_levels, lower=True)
        mean = ones[index] @ values
        projected = of_levels - crossed @ linalg.solve_triangular(factor, half, lower=True, trans="T")
        projected -= np.outer(z.T @ ones, mean) / ones.sum()
        squares = np.bincount(part, weights=(projected**2).sum(axis=1), minlength=len(b)).astype(np.float64)
        whole = (values.astype(np.float64) ** 2).sum() - (half**2).sum() - mean @ mean / ones.sum()
        squares[-1] = whole - squares[inside] @ found.variances[inside] / residual
        b += squares
    kept = np.append(inside, len(b) - 1)
    noise = np.zeros(len(b))
    noise[kept] = np.linalg.solve(found.information[np.ix_(kept, kept)], b[kept] / 2 / residual**2)
    return noise
