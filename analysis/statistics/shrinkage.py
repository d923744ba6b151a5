"""Conditional distribution of pairs' true deltas, from noisy deltas whose noise is known.

``delta = regime mean + source + target + pair + shared noises + own noise``. The first four are the truth, the others
are measured (`pair_noise`). The standard deviations of source, target and pair have half-t priors (Gelman 2006), weak
ones: few noisy pairs say little of them, many overrule the prior. Their posterior is drawn from by importance sampling
around its mode on the log scale; given them, everything follows from one Cholesky factor of Henderson's mixed model
equations, without the sources' noises, of which every pair has one: they are eliminated. So an interval holds what is
not known of the standard deviations, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import linalg, optimize, sparse
from threadpoolctl import threadpool_limits

from transfergrid.analysis.arrays import Float32Array, FloatArray, IntArray
from transfergrid.analysis.records import SOURCE, TARGET
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.pair_noise import PairNoise
from transfergrid.analysis.statistics.reml import check_components
from transfergrid.grid import Regime

PRIOR_PP, PRIOR_DF = 1.0, 4.0
"""Scale and degrees of freedom of the half-t prior of every standard deviation: half of it lies below 0.74 pp, 95 %
below 2.8 pp. Deltas of the study spread so; where many pairs say otherwise they overrule it."""
N_PROPOSALS, N_KEPT = 200, 50
"""Proposed standard deviations, half of them for draws, and how many are kept in proportion to their posterior."""
_PROPOSAL_DF = 5
_STEP = 0.05
"""Step on the log scale by which the curvature at the mode is found."""
_BOUNDS = (-7.0, 4.0)
"""Of a standard deviation's log, measured in the deltas' own spread."""


class Shrunken(NamedTuple):
    """True deltas of N pairs given the observed ones."""

    mean: FloatArray
    """Shape [N], pp."""
    variance: FloatArray
    """Shape [N], pp^2."""
    deviations: FloatArray
    """Shape [3]: most probable standard deviations of source, target and pair on the log scale, pp."""
    draws: Float32Array
    """Shape [N, B]: joint draws of all true deltas, pp."""


class _Model(NamedTuple):
    """N pairs; every pair is in K columns of the q effects."""

    y: FloatArray
    place: IntArray
    """Shape [N, K]: columns a pair is in: fixed effects, source, target, shared noise."""
    value: FloatArray
    """Shape [N, K]: what the pair has in them at variance 1."""
    columns: sparse.csr_array
    """Shape [q, N]: the same."""
    products: sparse.csr_array
    """Shape [q q, N]: the products of two of a pair's values."""
    part: IntArray
    """Shape [q]: 0 fixed, 1 source, 2 target, 3 shared noise."""
    penalty: FloatArray
    """Shape [q, q]: inverse covariance of the effects at variance 1; 0 for fixed ones."""
    own: FloatArray
    noise_known: bool
    of_source: FloatArray
    """Shape [N]: what the pair has in its source's noise of the task at variance 1."""
    task: IntArray
    """Shape [N]: which of G such noises."""
    across: sparse.csr_array
    """Shape [q G, N]: the products of ``of_source`` with the pair's values; the first of these is 1."""
    in_task: sparse.csr_array
    """Shape [G, N]: ``of_source`` by noise."""


class _Solved(NamedTuple):
    criterion: float
    scale: FloatArray
    factor: FloatArray
    effects: FloatArray
    across: FloatArray
    """Shape [q, G]: what effects at variance 1 and the sources' noises have in common."""
    precision: FloatArray
    """Shape [G]: of a source's noise, all effects known; ``pull / precision`` is its mean where they are 0."""
    pull: FloatArray


def shrink(pairs: pl.DataFrame, observed: FloatArray, noise: PairNoise, *, n_draws: int = 0, seed: int = 0) -> Shrunken:
    """Return conditional mean and variance of every pair's true delta, and joint draws.

    Args:
        pairs: N pairs with source, target and regime columns.
        observed: Shape [N], pp.
        noise: Of the observed deltas around the true ones. Where a pair's own noise is not known the others' mean
            is taken. Where none is known, a pair's own deviation counts as noise for the estimate and as truth for
            the variance.
        n_draws: Joint draws of all true deltas, rounded up to a multiple of `N_KEPT`; mean and variance are then the
            draws', which is faster.
        seed: Seed of all random numbers.

    Raises:
        FitError: If there are fewer than 3 pairs, or source or target cannot be told from the mean or the pair.
    """
    model = _model(pairs, observed, noise)
    generator = np.random.default_rng(seed)
    # the matrices are small: a second BLAS thread waits more than it works
    with threadpool_limits(limits=1, user_api="blas"):
        mode = _fit(model)
        kept = _posterior_deviations(model, mode, generator, n_proposals=N_PROPOSALS // (2 if n_draws else 1))
        if n_draws:
            per_kept = -(-n_draws // N_KEPT)
            draws = np.concatenate([_draw(model, each, per_kept, generator) for each in kept], axis=1)
            return Shrunken(draws.mean(axis=1, dtype=np.float64), draws.var(axis=1, dtype=np.float64), mode, draws)
        found = [_predict(model, deviations) for deviations in kept]
    means, variances = np.stack([each[0] for each in found]), np.stack([each[1] for each in found])
    total = variances.mean(axis=0) + means.var(axis=0)
    return Shrunken(means.mean(axis=0), total, mode, np.zeros((len(observed), 0), dtype=np.float32))


def _model(pairs: pl.DataFrame, observed: FloatArray, noise: PairNoise) -> _Model:
    source, target = level_codes(pairs, SOURCE), level_codes(pairs, TARGET)
    check_components({"source": source, "target": target}, len(observed))
    known = np.isfinite(noise.own)
    own = np.where(known, noise.own, noise.own[known].mean() if known.any() else 0.0)
    fixed = _regime_columns(pairs)
    loading = noise.loading if noise.loading.any() else noise.loading[:, :0]
    n_targets, n_shared = int(target.max()) + 1, loading.shape[1]
    sizes = [fixed.shape[1], int(source.max()) + 1, n_targets, n_targets * n_shared]
    starts = np.cumsum([0, *sizes])
    columns = np.tile(np.arange(sizes[0]), (len(observed), 1))
    shared = starts[3] + target[:, None] + n_targets * np.arange(n_shared)
    place = np.column_stack([columns, starts[1] + source, starts[2] + target, shared])
    one = np.ones(len(observed))
    between = [np.eye(size) for size in sizes[1:3]] + [linalg.inv(noise.correlation)] * n_shared
    penalty = linalg.block_diag(np.zeros((sizes[0], sizes[0])), *between)
    value, q = np.column_stack([fixed, one, one, loading]), sum(sizes)
    of_source, task = noise.of_source, noise.source_task
    n_tasks = int(task.max()) + 1 if of_source.any() else 0
    known_tasks = slice(None if n_tasks else 0)
    tasks, shares = ((place * n_tasks + task[:, None])[:, known_tasks], (value * of_source[:, None])[:, known_tasks])
    across = _by_column(tasks, shares, q * n_tasks)
    cells, products = place[:, :, None] * q + place[:, None, :], value[:, :, None] * value[:, None, :]
    return _Model(
        y=observed,
        place=place.astype(np.intp),
        value=value,
        columns=_by_column(place, value, q),
        products=_by_column(cells, products, q * q),
        part=np.repeat(np.arange(4), sizes),
        penalty=penalty,
        own=own,
        noise_known=bool(known.any()),
        of_source=of_source,
        task=task,
        across=across,
        in_task=across[:n_tasks],
    )


def _by_column(place: IntArray, value: FloatArray, size: int) -> sparse.csr_array:
    """Return shape [size, N] from places and values of shape [N, ...]."""
    pair = np.repeat(np.arange(len(place)), place[0].size)
    return sparse.csr_array((value.ravel(), (place.ravel(), pair)), shape=(size, len(place)))


def _regime_columns(pairs: pl.DataFrame) -> FloatArray:
    """Shape [N, p]: an intercept, and indicators of the regimes after the first that occurs."""
    regimes = [regime.value for regime in Regime if (pairs["regime"] == regime.value).any()]
    columns = [np.ones(pairs.height), *((pairs["regime"] == name).to_numpy().astype(float) for name in regimes[1:])]
    return np.stack(columns, axis=1)


def _log_posterior(model: _Model, logs: FloatArray) -> float:
    """Restricted log-likelihood and half-t priors of the standard deviations, seen on their log scale."""
    deviations = np.exp(logs)
    tail = (PRIOR_DF + 1) / 2 * np.log1p((deviations / PRIOR_PP) ** 2 / PRIOR_DF)
    prior = float((logs - tail).sum())
    return -0.5 * _solve(model, deviations).criterion + prior


def _size(model: _Model) -> float:
    return float(np.sqrt(model.y.var() + model.own.mean())) or 1.0


def _fit(model: _Model) -> FloatArray:
    size = np.log(_size(model))
    start, bounds = np.full(3, size + np.log(0.5)), [(size + _BOUNDS[0], size + _BOUNDS[1])] * 3
    found = optimize.minimize(lambda logs: -_log_posterior(model, logs), start, method="L-BFGS-B", bounds=bounds)
    return np.asarray(np.exp(found.x))


def _posterior_deviations(
    model: _Model, mode: FloatArray, generator: np.random.Generator, *, n_proposals: int
) -> FloatArray:
    """Return `N_KEPT` equally probable standard deviations."""
    centre = np.log(mode)
    root = linalg.cholesky(_curvature_inverse(model, centre), lower=True)
    normal = generator.normal(size=(n_proposals, 3))
    stretched = normal / np.sqrt(generator.chisquare(_PROPOSAL_DF, size=(n_proposals, 1)) / _PROPOSAL_DF)
    size = np.log(_size(model))
    logs = np.clip(centre + stretched @ root.T, size + _BOUNDS[0], size + _BOUNDS[1])
    proposal = -(_PROPOSAL_DF + 3) / 2 * np.log1p((stretched**2).sum(axis=1) / _PROPOSAL_DF)
    weights = np.array([_log_posterior(model, each) for each in logs]) - proposal
    shares = np.cumsum(np.exp(weights - weights.max()))
    points = (np.arange(N_KEPT) + generator.random()) / N_KEPT
    return np.asarray(np.exp(logs[np.searchsorted(shares, points * shares[-1])]))


def _curvature_inverse(model: _Model, centre: FloatArray) -> FloatArray:
    """Return the inverse of the negative second derivative at the mode, each direction between 0.05 and 2 wide."""
    steps = _STEP * np.eye(3)
    hessian = np.empty((3, 3))
    for first in range(3):
        for second in range(first, 3):
            ends = [
                _log_posterior(model, centre + one * steps[first] + other * steps[second])
                for one, other in ((1, 1), (1, -1), (-1, 1), (-1, -1))
            ]
            hessian[first, second] = hessian[second, first] = (ends[1] + ends[2] - ends[0] - ends[3]) / (4 * _STEP**2)
    values, vectors = np.linalg.eigh(hessian)
    return np.asarray((vectors / np.clip(values, 0.25, 400.0)) @ vectors.T)


def _solve(model: _Model, deviations: FloatArray) -> _Solved:
    """Return -2 x restricted log-likelihood (up to a constant) and the effects at variance 1, shape [q]."""
    rest = deviations[2] ** 2 + model.own
    scale = np.array([1.0, deviations[0], deviations[1], 1.0])[model.part]
    q = len(scale)
    precision, pull = 1 + model.in_task @ (model.of_source / rest), model.in_task @ (model.y / rest)
    across = scale[:, None] * (model.across @ (1 / rest)).reshape(q, len(pull))
    inner = scale[:, None] * (model.products @ (1 / rest)).reshape(q, q) * scale + model.penalty
    inner -= (across / precision) @ across.T
    right = scale * (model.columns @ (model.y / rest)) - across @ (pull / precision)
    factor = linalg.cholesky(inner, lower=True, check_finite=False)
    half = linalg.solve_triangular(factor, right, lower=True, check_finite=False)
    log_det = sum(float(np.log(each).sum()) for each in (rest, precision)) + 2 * float(np.log(np.diag(factor)).sum())
    criterion = log_det + float((model.y**2 / rest).sum() - (pull**2 / precision).sum() - half @ half)
    effects = linalg.solve_triangular(factor, half, lower=True, trans="T", check_finite=False)
    return _Solved(criterion, scale, factor, effects, across, precision, pull)


class _Weights(NamedTuple):
    """Pairs' shares of what is left of their deltas, what effects weigh in the truth, and the variance that stays."""

    share: FloatArray
    columns: FloatArray
    left: FloatArray


def _weights(model: _Model, deviations: FloatArray, scale: FloatArray) -> _Weights:
    """The truth is regime + source + target + pair; the pair is its share of what is left, the shared noise off."""
    pair = deviations[2] ** 2
    share = pair / (pair + model.own) if model.noise_known else np.zeros(len(model.y))
    is_shared = model.part[model.place] == 3
    columns = np.where(is_shared, -share[:, None], 1 - share[:, None]) * model.value * scale[model.place]
    return _Weights(share, columns, share * model.own if model.noise_known else np.full(len(model.y), pair))


def _predict(model: _Model, deviations: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance at given standard deviations, shape [N] each."""
    solved = _solve(model, deviations)
    weights = _weights(model, deviations, solved.scale)
    inverse = linalg.cho_solve((solved.factor, True), np.eye(len(solved.scale)))
    mean = (weights.columns * solved.effects[model.place]).sum(axis=1) + weights.share * model.y
    crossed = inverse[model.place[:, :, None], model.place[:, None, :]]
    variance = np.einsum("nk,nkl,nl->n", weights.columns, crossed, weights.columns) + weights.left
    if len(solved.pull):
        taken = weights.share * model.of_source
        mean -= taken * ((solved.pull - solved.across.T @ solved.effects) / solved.precision)[model.task]
        moved, precision = inverse @ solved.across, solved.precision[model.task]
        with_effects = (weights.columns * moved[model.place, model.task[:, None]]).sum(axis=1)
        of_effects = np.einsum("qg,qg->g", solved.across, moved)[model.task]
        variance += 2 * taken / precision * with_effects + taken**2 * (of_effects / precision**2 + 1 / precision)
    return mean, variance


def _draw(model: _Model, deviations: FloatArray, n_draws: int, generator: np.random.Generator) -> Float32Array:
    """Return joint draws of the true deltas at given standard deviations, shape [N, n_draws]."""
    solved = _solve(model, deviations)
    weights = _weights(model, deviations, solved.scale)
    normal = generator.normal(size=(len(solved.scale), n_draws))
    effects = solved.effects[:, None] + linalg.solve_triangular(solved.factor, normal, lower=True, trans="T")
    own = generator.normal(size=(len(model.y), n_draws))
    drawn = (weights.share * model.y)[:, None] + np.sqrt(weights.left)[:, None] * own
    if len(solved.pull):
        spread = generator.normal(size=(len(solved.pull), n_draws)) * np.sqrt(solved.precision)[:, None]
        noise = (solved.pull[:, None] - solved.across.T @ effects + spread) / solved.precision[:, None]
        drawn -= (weights.share * model.of_source)[:, None] * noise[model.task]
    for column in range(model.place.shape[1]):
        drawn += weights.columns[:, column, None] * effects[model.place[:, column]]
    return drawn.astype(np.float32)
