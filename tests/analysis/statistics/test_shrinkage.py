import numpy as np
import polars as pl
import pytest

from tests.analysis.synthetic import cells, transfer_rows
from transfergrid.analysis.records import SOURCE, TARGET
from transfergrid.analysis.statistics.bootstrap import level_codes
from transfergrid.analysis.statistics.pair_noise import PairNoise, independent_noise
from transfergrid.analysis.statistics.reml import FitError
from transfergrid.analysis.statistics.shrinkage import shrink

GRID = cells(("arc_challenge", "global_mmlu", "hellaswag"), ("de", "en", "es", "fr"))


def pairs(seed: int = 0, own: float = 0.3, shared: float = 0.0) -> tuple[pl.DataFrame, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 1, (12, 1)) + generator.normal(0, 2, (1, 12)) + generator.normal(0, 0.7, (12, 12))
    noise = generator.normal(0, own**0.5, (12, 12)) + generator.normal(0, shared**0.5, (1, 12))
    frame = transfer_rows(("m",), GRID, (truth + noise)[None]).filter(pl.col("regime") != "MT-ML")
    return frame, frame["delta_pp"].to_numpy()


def test_conditional_means_equal_those_of_the_full_covariance() -> None:
    frame, observed = pairs()
    generator = np.random.default_rng(5)
    correlation = np.full((12, 12), 0.4) + 0.6 * np.eye(12)
    own, loading = generator.uniform(0.1, 0.5, len(observed)), generator.uniform(0, 1, len(observed))
    noise = PairNoise(own, loading, correlation, np.ones(len(observed), dtype=np.bool_))
    source, target = (level_codes(frame, columns) for columns in (SOURCE, TARGET))
    names = ["MT-CL", "CT-ML", "CT-CL"]
    x = np.stack([np.ones(len(observed)), *((frame["regime"] == name).to_numpy() for name in names[1:])], axis=1)
    found = shrink(frame, observed, noise)
    parts = [source[:, None] == source, target[:, None] == target, np.eye(len(observed))]
    true = sum(deviation**2 * part for deviation, part in zip(found.deviations, parts, strict=True))
    shared = np.outer(noise.loading, noise.loading) * correlation[np.ix_(target, target)]
    inverse = np.linalg.inv(true + shared + np.diag(noise.own))
    beta = np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ observed)
    slack = x - true @ inverse @ x
    spread = true - true @ inverse @ true + slack @ np.linalg.inv(x.T @ inverse @ x) @ slack.T
    assert found.mean == pytest.approx(x @ beta + true @ inverse @ (observed - x @ beta))
    assert found.variance == pytest.approx(np.diag(spread))


def test_the_deviations_maximise_the_restricted_likelihood_times_their_product() -> None:
    frame, observed = pairs()
    found = shrink(frame, observed, independent_noise(np.full(len(observed), 0.3), 12))
    source, target = (level_codes(frame, columns) for columns in (SOURCE, TARGET))
    x = np.stack([np.ones(len(observed)), *((frame["regime"] == name).to_numpy() for name in ("CT-ML", "CT-CL"))], 1)

    def log_posterior(deviations: np.ndarray) -> float:
        covariance = deviations[0] ** 2 * (source[:, None] == source) + deviations[1] ** 2 * (target[:, None] == target)
        covariance = covariance + (deviations[2] ** 2 + 0.3) * np.eye(len(observed))
        inverse = np.linalg.inv(covariance)
        left = observed - x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ observed)
        dets = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(x.T @ inverse @ x)[1]
        return float(np.log(deviations).sum() - 0.5 * (dets + left @ inverse @ left))

    best = log_posterior(found.deviations)
    for place in range(3):
        for factor in (0.97, 1.03):
            moved = found.deviations.copy()
            moved[place] *= factor
            assert log_posterior(moved) < best


def test_noise_that_sources_share_is_not_taken_for_the_targets() -> None:
    frame, observed = pairs(seed=2, shared=4.0)
    noise = independent_noise(np.full(len(observed), 0.3), 12)
    apart = shrink(frame, observed, noise)
    shared = shrink(frame, observed, noise._replace(loading=np.full(len(observed), 2.0)))
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
    assert shrink(frame, observed, independent_noise(some, 12)).mean == pytest.approx(all_known.mean)


def test_too_few_pairs_are_refused() -> None:
    frame, observed = pairs()
    with pytest.raises(FitError, match="2 rows are too few"):
        shrink(frame[:2], observed[:2], independent_noise(np.ones(2), 1))
    one = frame.filter(target_task="hellaswag", target_language="fr")
    with pytest.raises(FitError, match="component 'source' has one row per level"):
        shrink(one, one["delta_pp"].to_numpy(), independent_noise(np.ones(one.height), 1))
