from itertools import product

import numpy as np
import polars as pl
import pytest
from scipy import stats
from threadpoolctl import threadpool_limits

from tests.analysis.synthetic import cells, transfer_rows
from transfergrid.analysis.records import SOURCE, TARGET
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.pair_noise import PairNoise, independent_noise
from transfergrid.analysis.statistics.reml import FitError
from transfergrid.analysis.statistics.shrinkage import PRIOR_DF, PRIOR_PP, shrink

GRID = cells(("arc_challenge", "global_mmlu", "hellaswag"), ("de", "en", "es", "fr"))


def pairs(seed: int = 0, own: float = 0.3, shared: float = 0.0) -> tuple[pl.DataFrame, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 1, (12, 1)) + generator.normal(0, 2, (1, 12)) + generator.normal(0, 0.7, (12, 12))
    noise = generator.normal(0, own**0.5, (12, 12)) + generator.normal(0, shared**0.5, (1, 12))
    frame = transfer_rows(("m",), GRID, (truth + noise)[None]).filter(pl.col("regime") != "MT-ML")
    return frame, frame["delta_pp"].to_numpy()


def log_posterior(deviations: np.ndarray, frame: pl.DataFrame, observed: np.ndarray, noise: PairNoise) -> tuple:
    """Log posterior density on the log scale, and mean and variance of the true deltas, all from full matrices."""
    source, target = (level_codes(frame, columns) for columns in (SOURCE, TARGET))
    x = np.stack([np.ones(len(observed)), *((frame["regime"] == name).to_numpy() for name in ("CT-ML", "CT-CL"))], 1)
    parts = [source[:, None] == source, target[:, None] == target, np.eye(len(observed))]
    true = sum(deviation**2 * part for deviation, part in zip(deviations, parts, strict=True))
    shared = noise.loading @ noise.loading.T * noise.correlation[np.ix_(target, target)]
    shared += np.outer(noise.of_source, noise.of_source) * (noise.source_task[:, None] == noise.source_task)
    covariance = true + shared + np.diag(noise.own)
    inverse = np.linalg.inv(covariance)
    inner = np.linalg.inv(x.T @ inverse @ x)
    beta = inner @ x.T @ inverse @ observed
    left = observed - x @ beta
    slack = x - true @ inverse @ x
    spread = true - true @ inverse @ true + slack @ inner @ slack.T
    dets = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(inner)[1]
    prior = np.log(deviations).sum() + stats.t.logpdf(deviations / PRIOR_PP, PRIOR_DF).sum()
    return prior - 0.5 * (dets + left @ inverse @ left), x @ beta + true @ inverse @ left, np.diag(spread)


def made_up_noise(frame: pl.DataFrame) -> PairNoise:
    n = frame.height
    generator = np.random.default_rng(5)
    correlation = np.full((12, 12), 0.4) + 0.6 * np.eye(12)
    own, loading = generator.uniform(0.1, 0.5, n), generator.uniform(0, 1, (n, 2))
    of_source, codes = generator.uniform(0, 0.8, n), level_codes(frame, (*SOURCE, "target_task"))
    return PairNoise(own, loading, correlation, np.ones(n, dtype=np.bool_), of_source, codes)


def test_means_and_variances_equal_those_of_full_matrices_over_a_fine_grid_of_deviations() -> None:
    frame, observed = pairs()
    noise = made_up_noise(frame)
    axes = [np.exp(np.linspace(np.log(mode) - 1.2, np.log(mode) + 1.2, 7)) for mode in (1.0, 2.0, 0.7)]
    with threadpool_limits(limits=1, user_api="blas"):
        grid = [log_posterior(np.array(point), frame, observed, noise) for point in product(*axes)]
    weights = np.exp(np.array([each[0] for each in grid]) - max(each[0] for each in grid))
    means, variances = (np.stack([each[field] for each in grid]) for field in (1, 2))
    mean = np.average(means, axis=0, weights=weights)
    variance = np.average(variances + (means - mean) ** 2, axis=0, weights=weights)
    found = shrink(frame, observed, noise)
    assert found.mean == pytest.approx(mean, abs=0.1)
    assert found.variance == pytest.approx(variance, rel=0.1)
    drawn = shrink(frame, observed, noise, n_draws=2000)
    assert drawn.mean == pytest.approx(found.mean, abs=0.15)
    assert drawn.variance.mean() == pytest.approx(found.variance.mean(), rel=0.05)
    level = drawn.draws.mean(axis=0).var()
    assert level == pytest.approx(drawn.variance.mean() / 5, rel=0.9)  # draws are joint: pairs move together


def test_the_most_probable_deviations_are_at_the_top_of_the_posterior() -> None:
    frame, observed = pairs()
    noise = made_up_noise(frame)
    found = shrink(frame, observed, noise)
    best = log_posterior(found.deviations, frame, observed, noise)[0]
    for place in range(3):
        for factor in (0.95, 1.05):
            moved = found.deviations.copy()
            moved[place] *= factor
            assert log_posterior(moved, frame, observed, noise)[0] < best


def test_noise_that_sources_share_is_not_taken_for_the_targets() -> None:
    frame, observed = pairs(seed=2, shared=4.0)
    noise = independent_noise(np.full(len(observed), 0.3), 12)
    apart = shrink(frame, observed, noise)
    shared = shrink(frame, observed, noise._replace(loading=np.full((len(observed), 1), 2.0)))
    assert shared.deviations[1] < apart.deviations[1]
    assert (shared.variance > apart.variance).all()
    target = level_codes(frame, TARGET)
    levels = [np.bincount(target, found.mean) / np.bincount(target) for found in (apart, shared)]
    assert levels[1].std() < 0.9 * levels[0].std()


def test_a_component_that_reml_puts_at_zero_still_has_variance() -> None:
    frame, observed = pairs(own=1.0)
    found = shrink(frame, observed, independent_noise(np.full(len(observed), 3.0), 12))
    assert found.deviations[2] > 0.1
    assert found.variance.min() > 0.01


def test_without_noise_the_estimate_is_what_was_observed() -> None:
    frame, observed = pairs()
    found = shrink(frame, observed, independent_noise(np.full(len(observed), 1e-9), 12))
    assert found.mean == pytest.approx(observed, abs=1e-6)
    assert found.variance == pytest.approx(np.zeros(len(observed)), abs=1e-6)


def test_unknown_noise_forgets_the_pair_and_leaves_it_in_the_interval() -> None:
    frame, observed = pairs()
    found = shrink(frame, observed, independent_noise(np.full(len(observed), np.nan), 12))
    assert np.abs(found.mean - observed).max() > 0.1
    assert (found.variance > found.deviations[2] ** 2).all()
    some = np.where(np.arange(len(observed)) % 3 == 0, np.nan, 0.3)
    all_known = shrink(frame, observed, independent_noise(np.full(len(observed), 0.3), 12))
    assert shrink(frame, observed, independent_noise(some, 12)).mean == pytest.approx(
        all_known.mean, rel=1e-4, abs=1e-5
    )


def test_too_few_pairs_are_refused() -> None:
    frame, observed = pairs()
    with pytest.raises(FitError, match="2 rows are too few"):
        shrink(frame[:2], observed[:2], independent_noise(np.ones(2), 1))
    one = frame.filter(target_task="hellaswag", target_language="fr")
    with pytest.raises(FitError, match="component 'source' has one row per level"):
        shrink(one, one["delta_pp"].to_numpy(), independent_noise(np.ones(one.height), 1))
