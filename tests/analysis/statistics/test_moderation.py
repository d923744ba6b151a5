import numpy as np
import pytest
from scipy import special

from transfergrid.analysis.statistics.moderation import MIN_ROWS, fit_prior, moderate


def variances(prior_df: float, n: int = 20_000, df: float = 2.0) -> np.ndarray:
    """Of rows whose true variances are scaled inverse chi-squared around 3."""
    generator = np.random.default_rng(0)
    true = 3.0 * prior_df / generator.chisquare(prior_df, n) if np.isfinite(prior_df) else np.full(n, 3.0)
    return true * generator.chisquare(df, n) / df


@pytest.mark.parametrize("prior_df", [4.0, 20.0])
def test_the_prior_of_made_up_variances_is_found(prior_df: float) -> None:
    found = fit_prior(variances(prior_df), np.full(20_000, 2.0))
    assert found.df == pytest.approx(prior_df, rel=0.25)
    assert found.variance == pytest.approx(3.0, rel=0.05)


def test_equal_variances_have_a_prior_worth_many_degrees_of_freedom() -> None:
    found = fit_prior(variances(np.inf), np.full(20_000, 2.0))
    assert found.df > 100
    assert found.variance == pytest.approx(3.0, rel=0.03)


def test_the_moments_are_those_of_smyth() -> None:
    values, df = variances(6.0, 50), np.full(50, 2.0)
    found = fit_prior(values, df)
    logs = np.log(values) - special.digamma(1) + np.log(1)
    assert special.polygamma(1, found.df / 2) == pytest.approx(logs.var(ddof=1) - special.polygamma(1, 1))
    assert np.log(found.variance) == pytest.approx(logs.mean() + special.digamma(found.df / 2) - np.log(found.df / 2))


def test_moderated_variances_are_weighted_means_and_their_t_tests_hold_their_level() -> None:
    values, df = variances(4.0), np.full(20_000, 2.0)
    prior = fit_prior(values, df)
    found = moderate(values, df, groups=np.zeros(20_000, dtype=np.intp), scale=np.ones(20_000))
    assert found.variance == pytest.approx((prior.df * prior.variance + 2 * values) / (prior.df + 2))
    assert found.df == pytest.approx(np.full(20_000, prior.df + 2))
    generator = np.random.default_rng(0)
    true = 3.0 * 4.0 / generator.chisquare(4.0, 20_000)  # the same as in `variances`
    t = np.sqrt(true) * generator.normal(size=20_000) / np.sqrt(found.variance)
    assert (2 * special.stdtr(found.df, -np.abs(t)) < 0.001).mean() == pytest.approx(0.001, abs=0.0007)


def test_rows_are_measured_in_their_scale_and_groups_apart() -> None:
    values, scale = variances(6.0, 400), np.repeat([1.0, 5.0], 200)
    groups = np.tile([0, 1], 200)
    found = moderate(values * scale, np.full(400, 2.0), groups=groups, scale=scale)
    one = groups == 0
    alone = moderate(values[one], np.full(200, 2.0), groups=groups[one], scale=np.ones(200))
    assert found.variance[one] == pytest.approx(alone.variance * scale[one])


def test_few_rows_unknown_ones_and_those_of_one_seed_stay_as_they_are() -> None:
    few = moderate(
        np.arange(1.0, MIN_ROWS),
        np.full(MIN_ROWS - 1, 2.0),
        groups=np.zeros(MIN_ROWS - 1, dtype=np.intp),
        scale=np.ones(MIN_ROWS - 1),
    )
    assert few.variance == pytest.approx(np.arange(1.0, MIN_ROWS))
    values = np.append(variances(6.0, 50), [np.nan, 7.0])
    found = moderate(values, np.append(np.full(51, 2.0), 0.0), groups=np.zeros(52, dtype=np.intp), scale=np.ones(52))
    assert np.isnan(found.variance[50])
    assert found.variance[51] == 7.0
    assert found.df[51] == 0.0


def test_variances_of_zero_are_drawn_up() -> None:
    values = variances(6.0, 100)
    values[:3] = 0.0
    found = moderate(values, np.full(100, 2.0), groups=np.zeros(100, dtype=np.intp), scale=np.ones(100))
    assert found.variance.min() > 0
    nothing = moderate(np.zeros(20), np.full(20, 2.0), groups=np.zeros(20, dtype=np.intp), scale=np.ones(20))
    assert not nothing.variance.any()
