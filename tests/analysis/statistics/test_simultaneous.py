import numpy as np
import pytest

from transfergrid.analysis.statistics.simultaneous import differs_from_mean, rank_sets


def draws(estimates: np.ndarray, se: float, generator: np.random.Generator) -> np.ndarray:
    return estimates[:, None] + se * generator.normal(size=(len(estimates), 400))


def test_pure_noise_gets_a_label_in_few_tables_and_a_real_difference_in_all() -> None:
    generator = np.random.default_rng(0)
    false = [
        differs_from_mean(draws(found, 1.0, generator), found, sign=1, confidence=0.95).any()
        for found in generator.normal(size=(300, 20))
    ]
    assert np.mean(false) < 0.09
    real = np.zeros(20)
    real[3], real[5] = 6.0, -6.0
    assert np.flatnonzero(differs_from_mean(draws(real, 1.0, generator), real, sign=1, confidence=0.95)) == [3]
    assert np.flatnonzero(differs_from_mean(draws(real, 1.0, generator), real, sign=-1, confidence=0.95)) == [5]


def test_rank_sets_hold_all_true_ranks_together() -> None:
    generator = np.random.default_rng(1)
    true = np.linspace(3, 0, 8)
    held = []
    for _ in range(200):
        found = true + 0.5 * generator.normal(size=8)
        sets = rank_sets(draws(found, 0.5, generator), found, 0.95)
        held.append(((sets.low <= np.arange(1, 9)) & (np.arange(1, 9) <= sets.high)).all())
    assert np.mean(held) > 0.9


def test_rank_sets_by_hand() -> None:
    generator = np.random.default_rng(2)
    found = np.array([0.0, 10.0, 10.1])
    sets = rank_sets(draws(found, 0.5, generator), found, 0.95)
    assert sets.low.tolist() == [3, 1, 1]
    assert sets.high.tolist() == [3, 2, 2]


def test_units_that_never_differ_share_all_ranks_and_get_no_label() -> None:
    # float32 sums of the same numbers in another order differ in the seventh digit
    same = 2.0 + np.random.default_rng(3).choice([0, 2e-7, -2e-7], size=(3, 100))
    assert rank_sets(same, np.zeros(3), 0.95).high.tolist() == [3, 3, 3]
    assert not differs_from_mean(same, np.array([0, 0, 1e-12]), sign=1, confidence=0.95).any()


def test_a_unit_that_is_often_missing_leaves_no_ranks_and_no_labels() -> None:
    holed = np.random.default_rng(0).normal(size=(3, 100))
    holed[1, :20] = np.nan
    assert np.isnan(rank_sets(holed, np.zeros(3), 0.95).low).all()
    assert not differs_from_mean(holed, np.array([9.0, 0, 0]), sign=1, confidence=0.95).any()
    holed[1, 5:] = 0.5
    assert rank_sets(holed, np.zeros(3), 0.95).low == pytest.approx([1, 1, 1])
