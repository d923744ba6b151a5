import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from transfergrid.analysis.statistics.significance import (
    PairedSums,
    StandardErrors,
    benjamini_hochberg,
    beyond_cut_p,
    crossed_standard_error,
    harm_by_chance,
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


def one_row(differences: np.ndarray, redrawn: bool = False) -> StandardErrors:
    return crossed_standard_error(paired_sums(differences), np.zeros(1, dtype=np.intp), np.array([redrawn]))


def test_one_seed_gives_the_standard_error_of_the_paired_difference() -> None:
    differences = np.array([1, 0, 0, -1, 0, 1, 1, 0])[:, None]
    found = one_row(differences)
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
    found = one_row(differences)
    assert found.se == pytest.approx([((ms_items + ms_seeds - ms_residual) / (items * seeds)) ** 0.5])
    assert seeds - 1 < found.df[0] < items


def test_seeds_that_agree_add_no_variance() -> None:
    differences = np.repeat(np.array([1, 0, 0, -1, 1, 0])[:, None], 3, axis=1)
    found = one_row(differences)
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
        variances.append(one_row(differences).se[0] ** 2)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.15)


def test_one_item_has_no_standard_error() -> None:
    assert np.isnan(one_row(np.array([[1.0]])).se).all()


def test_redrawn_items_are_noise_within_a_seed_and_seeds_are_independent() -> None:
    generator = np.random.default_rng(3)
    differences = generator.choice([-1.0, 0, 0, 1], size=(50, 4)) + np.array([0, 0.4, 0.8, 1.2])
    by_seed = differences.mean(axis=0)
    found = one_row(differences, redrawn=True)
    assert found.se == pytest.approx([by_seed.std(ddof=1) / 2])
    assert found.df == pytest.approx([3])
    alike = differences - by_seed + 0.1
    within = (alike - 0.1).std(axis=0, ddof=1)
    assert one_row(alike, redrawn=True).se == pytest.approx([np.sqrt((within**2).mean() / 200)])


def test_seeds_of_many_rows_moderate_each_other() -> None:
    generator = np.random.default_rng(1)
    studies = 0.4 * generator.normal(size=(300, 1, 3)) + generator.normal(size=(300, 40, 3))
    each = [paired_sums(study) for study in studies]
    sums = PairedSums(*(np.concatenate(field) for field in zip(*each, strict=True)))
    nothing = np.zeros(300, dtype=np.bool_)
    alone = crossed_standard_error(sums, np.arange(300), nothing)
    together = crossed_standard_error(sums, np.zeros(300, dtype=np.intp), nothing)
    assert together.se.std() < 0.5 * alone.se.std()
    assert np.median(together.df) > 20 > np.median(alone.df)
    p_values = t_test_p(studies.mean(axis=(1, 2)) / together.se, together.df)
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_harm_by_chance_equals_the_sum_over_all_coin_flips() -> None:
    # 8 items make the cut of -1 pp one item; 3 changed: lost - won is 3, 1, -1, -3
    assert harm_by_chance(np.array([3.0]), np.array([8.0]), -1.0) == pytest.approx([4 / 8])
    # 400 items: 4 items; 6 changed: lost - won must be 4 or 6
    assert harm_by_chance(np.array([6.0]), np.array([400.0]), -1.0) == pytest.approx([7 / 64])
    assert harm_by_chance(np.array([0.0]), np.array([400.0]), -1.0) == pytest.approx([0.0])
    generator = np.random.default_rng(0)
    flips = generator.choice([-1, 1], size=(100_000, 40)).sum(axis=1)
    assert harm_by_chance(np.array([40.0]), np.array([400.0]), -1.0) == pytest.approx([(flips <= -4).mean()], abs=0.01)


def test_a_delta_is_beyond_the_cut_only_when_its_error_leaves_no_room() -> None:
    found = beyond_cut_p(np.array([-5.0, -1.0, -2.0]), np.array([1.0, 1.0, 0.0]), np.full(3, 399.0), -1.0)
    assert found[:2] == pytest.approx([stats.t.sf(4, 399), 0.5])
    assert np.isnan(found[2])
