"""Power: the smallest true delta that a grid shows in four of five runs, and the items that one point would need.

A pair's noise has the variance ``100^2 c / n`` with c the share of the items whose answer changes from right to wrong
or back. Pairs share noise: all sources of a target its baseline, all languages of a task their items. How much, and
how far true deltas spread, is assumed: as in the made-up runs of ``perf.coverage``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from transfergrid.analysis.arrays import IntArray
from transfergrid.grid import Grid, Regime, regime_of
from transfergrid.store.adaptive import EXPECTED_CHANGE, EXPECTED_MEAN_PP, FUTILE_Z, hoped_z, simulate

POWER = 0.8
SOURCE_SD, TARGET_SD, PAIR_SD = 0.4, 1.2, 0.5
"""Standard deviations of true effects that are assumed, in pp."""
SAME_TARGET, SAME_SOURCE, SAME_ITEMS, OTHER_SEED = 0.43, 0.06, 0.03, 0.59
"""Correlation of the noise of two pairs: two sources of a target; a source on two languages of a task; other pairs on
two languages of a task; a pair under two seeds. Measured in the made-up runs of ``perf.coverage``."""
ASSUMED_ACCURACY = 0.45
LARGEST_N = 1_000_000
MAX_SEEDS = 100


class Noise(NamedTuple):
    """What the noise of a pair depends on."""

    n_items: float
    change_rate: float
    """Share of the items whose answer changes from right to wrong or back."""
    n_seeds: int = 1
    redrawn: bool = False
    """Whether every seed has items of its own."""

    @property
    def variance(self) -> float:
        """Of a pair's delta, in pp^2."""
        shared = 0.0 if self.redrawn else OTHER_SEED
        left_by_seeds = shared + (1 - shared) / self.n_seeds
        return 100**2 * self.change_rate / self.n_items * left_by_seeds


def expected_change(accuracy: float) -> float:
    """Return the share of changed items of a base with this accuracy; 12 % at 45 %, fewer where fewer can change."""
    return EXPECTED_CHANGE * accuracy * (1 - accuracy) / (ASSUMED_ACCURACY * (1 - ASSUMED_ACCURACY))


def pair_delta(noise: Noise, n_pairs: int, fdr: float) -> float:
    """Return the smallest delta in pp at which a pair holds after Benjamini-Hochberg in `POWER` of the runs."""
    z = special.ndtri(1 - bh_threshold(noise, n_pairs, fdr) / 2)
    return float((z + special.ndtri(POWER)) * np.sqrt(noise.variance))


def bh_threshold(noise: Noise, n_pairs: int, fdr: float) -> float:
    """Return the p below which Benjamini-Hochberg is expected to reject: the largest t with P(p <= t) >= t / fdr.

    Source: Genovese and Wasserman 2002, Operating characteristics of the false discovery rate procedure.
    """
    t = np.geomspace(fdr / n_pairs, 1, 2000)
    spread = np.sqrt(1 + (SOURCE_SD**2 + TARGET_SD**2 + PAIR_SD**2) / noise.variance)
    centre = EXPECTED_MEAN_PP / np.sqrt(noise.variance)
    z = -special.ndtri(t / 2)
    reached = special.ndtr((centre - z) / spread) + special.ndtr((-z - centre) / spread)
    return float(t[reached >= t / fdr].max(initial=t[0]))


def adaptive_pair_delta(noise: Noise, n_pairs: int, fdr: float) -> float:
    """Return the same for pairs that may stop early, by simulation; one seed."""
    z = special.ndtri(1 - bh_threshold(noise, n_pairs, fdr) / 2)

    def power(delta_pp: float) -> float:
        n = int(noise.n_items)
        found = simulate(np.full(4000, delta_pp), n, noise.change_rate, np.random.default_rng(0))
        went_on = (found.n_items == n) & (hoped_z(found.net, found.changed, n, n) >= max(z, FUTILE_Z))
        return float((went_on & (found.net > 0)).mean())

    return _smallest(lambda delta: power(delta) >= POWER, 100.0)


def regime_delta(noise: Noise, grid: Grid, regime: Regime | None, confidence: float) -> float:
    """Return the smallest mean delta in pp of a regime (None: all but MT-ML) that differs from 0 at the level.

    Over sources, targets and items like these; NaN where a regime has fewer than two sources or targets.
    """
    place = {cell: number for number, cell in enumerate(grid.cells)}
    pairs = [
        (place[source], place[target])
        for source, target in grid.pairs
        if regime is None or regime_of(source, target) == regime
    ]
    if not pairs:
        return float("nan")
    sources, targets = np.array(pairs).T
    df = min(len(set(sources)), len(set(targets))) - 1
    if df < 1:
        return float("nan")
    n = len(pairs)
    shares = [np.bincount(codes) / n for codes in (sources, targets)]
    effects = SOURCE_SD**2 * (shares[0] ** 2).sum() + TARGET_SD**2 * (shares[1] ** 2).sum() + PAIR_SD**2 / n
    se = np.sqrt(effects + noise.variance * _mean_correlation(sources, targets, grid))
    return float((special.stdtrit(df, 0.5 + confidence / 2) + special.stdtrit(df, POWER)) * se)


def _mean_correlation(sources: IntArray, targets: IntArray, grid: Grid) -> float:
    """Return the mean over all pairs of pairs of the correlation of their noise."""
    tasks = np.array([grid.tasks.index(cell.task) for cell in grid.cells])[targets]

    def together(*codes: IntArray) -> float:
        _, counts = np.unique(np.stack(codes), axis=1, return_counts=True)
        return float((counts.astype(float) ** 2).sum())

    n_same = float(len(sources))
    of_target, of_source, of_task = together(targets), together(sources, tasks), together(tasks)
    total = n_same + SAME_TARGET * (of_target - n_same) + SAME_SOURCE * (of_source - n_same)
    total += SAME_ITEMS * (of_task - of_target - of_source + n_same)
    return total / n_same**2


def recommendation_delta(noise: Noise, n_tasks: int, n_cells: int, confidence: float) -> float:
    """Return the smallest true delta in pp at which `recommend` says P(help) > the level in `POWER` of the runs.

    The best linear prediction of a pair from all pairs of the grid. Sources and targets are crossed, so that the
    covariances of effects and of noise have the same eigenvectors: means and contrasts of sources, and of targets
    between and within tasks. Where tasks have different numbers of languages, each counts with their mean. NaN with
    fewer than three cells.
    """
    if n_cells < 3:
        return float("nan")
    strata = [
        (n_source * n_target, *_eigenvalues(noise, n_cells, n_tasks, is_source_mean=is_mean, target_level=level))
        for n_source, is_mean in ((1, True), (n_cells - 1, False))
        for n_target, level in ((1, 0), (n_tasks - 1, 1), (n_cells - n_tasks, 2))
    ]
    predicted = sum(n * a**2 / (a + b) for n, a, b in strata) / n_cells**2
    spread = sum(n * a for n, a, _ in strata) / n_cells**2
    share = predicted / spread
    left = np.sqrt(spread - predicted)
    needed = special.ndtri(confidence) * left + special.ndtri(POWER) * np.sqrt(predicted * (1 - share))
    return float(EXPECTED_MEAN_PP + (needed - EXPECTED_MEAN_PP) / share)


def _eigenvalues(
    noise: Noise, size: int, n_tasks: int, *, is_source_mean: bool, target_level: int
) -> tuple[float, float]:
    """Return the variance of effects and of noise in one stratum; target levels: grand mean, tasks, within tasks."""
    effects = PAIR_SD**2 + size * (SOURCE_SD**2 * (target_level == 0) + TARGET_SD**2 * is_source_mean)
    of_task = size / n_tasks * (target_level < 2)
    own = 1 - SAME_SOURCE + SAME_SOURCE * of_task
    shared = SAME_TARGET - SAME_ITEMS + SAME_ITEMS * of_task
    return effects, noise.variance * (own + (size - 1 if is_source_mean else -1) * shared)


def items_needed(delta_at: Callable[[Noise], float], noise: Noise, goal_pp: float) -> int | None:
    """Return the items of a target at which ``delta_at`` comes down to a goal; None: no number of items is enough."""
    if not delta_at(noise._replace(n_items=LARGEST_N)) <= goal_pp:
        return None
    log_n = _smallest(lambda log_n: delta_at(noise._replace(n_items=np.exp(log_n))) <= goal_pp, np.log(LARGEST_N))
    return int(np.ceil(np.exp(log_n)))


def seeds_needed(delta_at: Callable[[Noise], float], noise: Noise, goal_pp: float) -> int | None:
    """Return the seeds at which ``delta_at`` comes down to a goal; None: more than `MAX_SEEDS`."""
    counts = range(1, MAX_SEEDS + 1)
    return next((k for k in counts if delta_at(noise._replace(n_seeds=k)) <= goal_pp), None)


def _smallest(is_enough: Callable[[float], bool], high: float) -> float:
    """Return the smallest number up to ``high`` from which on something is enough, by bisection."""
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
