import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from transfergrid.analysis.statistics.significance import (
    PairedSums,
    benjamini_hochberg,
    crossed_standard_error,
    holds_fdr,
    mcnemar_exact_p,
    t_test_p,
)


def test_exact_mcnemar_equals_statsmodels_on_all_small_tables() -> None:
    base, adapter = (each.ravel() for each in np.indices((13, 13)))
    expected = [mcnemar([[5, b], [a, 5]], exact=True).pvalue for b, a in zip(base, adapter, strict=True)]
    assert mcnemar_exact_p(base, adapter) == pytest.approx(np.minimum(expected, 1), abs=1e-12)


def test_exact_mcnemar_by_hand() -> None:
    # 1 of 6 discordant: 2 * (1 + 6) / 64
    assert mcnemar_exact_p(np.array([1]), np.array([5])) == pytest.approx([14 / 64])
    assert mcnemar_exact_p(np.array([0]), np.array([0])) == pytest.approx([1.0])


def test_benjamini_hochberg_equals_statsmodels_and_skips_what_was_not_tested() -> None:
    p_values = np.random.default_rng(0).random(50) ** 3
    expected = multipletests(p_values, method="fdr_bh")[1]
    with_gaps = np.insert(p_values, [0, 20], np.nan)
    found = benjamini_hochberg(with_gaps)
    assert np.isnan(found[[0, 21]]).all()
    assert found[~np.isnan(with_gaps)] == pytest.approx(expected)
    assert holds_fdr(found, 0.05).sum() == (expected <= 0.05).sum()


def test_benjamini_hochberg_by_hand() -> None:
    # sorted .01 .02 .04 -> .03 .03 .04
    assert benjamini_hochberg(np.array([0.04, 0.01, 0.02])) == pytest.approx([0.04, 0.03, 0.03])


def test_t_test_p_equals_scipy() -> None:
    assert t_test_p(np.array([2.5, -1.0]), np.array([3.0, 10.0])) == pytest.approx(
        [2 * stats.t.sf(2.5, 3), 2 * stats.t.sf(1.0, 10)]
    )


def paired_sums(differences: np.ndarray) -> PairedSums:
    """Sums of one row from its differences, shape [items, seeds]."""
    mean = differences.mean()
    values = (
        differences.shape[0],
        differences.shape[1],
        mean,
        ((differences.mean(axis=1) - mean) ** 2).sum(),
        ((differences.mean(axis=0) - mean) ** 2).sum(),
        (differences**2).sum(),
    )
    return PairedSums(*(np.array([value], dtype=float) for value in values))


def test_one_seed_gives_the_standard_error_of_the_paired_difference() -> None:
    differences = np.array([1, 0, 0, -1, 0, 1, 1, 0])[:, None]
    found = crossed_standard_error(paired_sums(differences))
    assert found.se == pytest.approx([differences.std(ddof=1) / 8**0.5])
    assert found.df == pytest.approx([7])


def test_crossed_standard_error_equals_the_slow_analysis_of_variance() -> None:
    generator = np.random.default_rng(5)
    items, seeds = 60, 4
    differences = np.sign(
        generator.normal(size=(items, 1))
        + 1.5 * generator.normal(size=(1, seeds))
        + generator.normal(size=(items, seeds))
    )
    grand, by_item, by_seed = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    ms_items = sum(seeds * (mean - grand) ** 2 for mean in by_item) / (items - 1)
    ms_seeds = sum(items * (mean - grand) ** 2 for mean in by_seed) / (seeds - 1)
    residuals = differences - by_item[:, None] - by_seed[None, :] + grand
    ms_residual = (residuals**2).sum() / ((items - 1) * (seeds - 1))
    assert ms_seeds > ms_residual
    found = crossed_standard_error(paired_sums(differences))
    assert found.se == pytest.approx([((ms_items + ms_seeds - ms_residual) / (items * seeds)) ** 0.5])
    assert seeds - 1 < found.df[0] < items


def test_seeds_that_agree_add_no_variance() -> None:
    differences = np.repeat(np.array([1, 0, 0, -1, 1, 0])[:, None], 3, axis=1)
    found = crossed_standard_error(paired_sums(differences))
    assert found.se == pytest.approx([differences[:, 0].std(ddof=1) / 6**0.5])
    assert found.df == pytest.approx([5])


def test_the_crossed_standard_error_is_the_spread_of_repeated_studies() -> None:
    generator = np.random.default_rng(8)

    def study() -> np.ndarray:
        return generator.normal(size=(40, 1)) + generator.normal(size=(1, 6)) + generator.normal(size=(40, 6))

    means, variances = [], []
    for _ in range(400):
        differences = study()
        means.append(differences.mean())
        variances.append(crossed_standard_error(paired_sums(differences)).se[0] ** 2)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.15)


def test_one_item_has_no_standard_error() -> None:
    assert np.isnan(crossed_standard_error(paired_sums(np.array([[1.0]]))).se).all()
