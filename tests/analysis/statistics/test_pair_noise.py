from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.analysis.synthetic import cells, item_rows, transfer_rows, write_run
from transfergrid.analysis.records import PAIR, ItemBlock
from transfergrid.analysis.statistics.pair_noise import (
    RULE_OF_THREE,
    Covariance,
    measure_noise,
    posterior_rates,
    relative_loadings,
    shared_part,
    source_share,
)
from transfergrid.analysis.transfer.table import read_transfer

GRID = cells(("arc_challenge",), ("de", "en", "es"))
ITEMS = tuple(f"q{item}" for item in range(50))


def blocks(rows: pl.DataFrame, differences: np.ndarray) -> tuple[ItemBlock, ...]:
    scored = np.ones(differences.shape, dtype=np.bool_)
    return (ItemBlock("arc_challenge", rows.select("model", *PAIR), ITEMS, differences.astype(np.float32), scored),)


def pairs_of(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(PAIR).agg(n_models=pl.len().cast(pl.Int64)).sort(PAIR)


def made_up_covariance(loading: np.ndarray, correlation: np.ndarray, n_draws: int) -> Covariance:
    """Of 20 sources on 3 targets, from draws of the noise of every pair."""
    generator = np.random.default_rng(0)
    sources, targets = (each.ravel() for each in np.indices((20, 3)))
    factors = np.linalg.cholesky(correlation) @ generator.normal(size=(3, n_draws))
    noise = loading[:, None] * factors[targets] + 0.5 * generator.normal(size=(60, n_draws))
    return Covariance(np.arange(60), noise @ noise.T / n_draws, sources, targets)


def test_loadings_and_correlation_of_made_up_noise_are_found() -> None:
    correlation = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    relative = np.repeat(np.random.default_rng(1).uniform(0.5, 1.5, 20), 3)
    levels = np.tile([0.3, 0.8, 1.2], 20)
    found, between = shared_part(made_up_covariance(levels * relative, correlation, 20_000), relative[:, None])
    assert found[:, 0] == pytest.approx(levels * relative, abs=0.08)
    assert between == pytest.approx(correlation, abs=0.05)


def test_sources_without_common_noise_share_nothing() -> None:
    loading, _ = shared_part(made_up_covariance(np.zeros(60), np.eye(3), 4000), np.ones((60, 1)))
    assert loading.mean() < 0.1


def test_what_a_source_shares_between_languages_of_a_task_is_its_correlation_beyond_that_of_two_sources() -> None:
    sources, targets = (each.ravel() for each in np.indices((20, 3)))
    same_source, same_target = (codes[:, None] == codes for codes in (sources, targets))
    values = 4.0 * (0.05 + 0.4 * same_target + 0.15 * same_source)
    covariance = Covariance(np.arange(60), values, sources, targets)
    assert source_share([covariance], np.full(60, 4.0)) == pytest.approx(0.15)
    assert source_share([covariance._replace(values=values * ~same_source)], np.full(60, 4.0)) == 0
    assert source_share([], np.ones(0)) == 0


def test_adapters_that_change_little_may_share_more_with_each_other_than_with_others() -> None:
    noise = np.repeat([1.0, 4.0], 10)
    wanted = np.where(noise[:, None] == noise, 0.5, 0.2) * np.sqrt(np.outer(noise, noise))
    codes = np.arange(20)
    covariance = Covariance(codes, wanted, codes, np.zeros(20, dtype=int))
    relative = relative_loadings([covariance], codes, noise)
    apart = codes[:, None] != codes
    assert (relative @ relative.T)[apart] == pytest.approx(wanted[apart], abs=1e-6)


def test_rates_go_with_source_and_target_and_none_is_zero() -> None:
    sources, targets = (each.ravel() for each in np.indices((30, 30)))
    wanted = np.outer(np.geomspace(1, 16, 30), np.geomspace(0.5, 2, 30)).ravel()
    counts = np.random.default_rng(0).poisson(wanted).astype(float)
    rates = posterior_rates(counts, sources, targets)
    assert rates.min() > 0
    assert np.sqrt(((rates - wanted) ** 2 / wanted).mean()) < 0.5  # of the Poisson counts themselves: 1
    assert posterior_rates(np.zeros(900), sources, targets) == pytest.approx(np.full(900, RULE_OF_THREE))


def test_own_and_shared_noise_add_up_to_the_standard_errors() -> None:
    generator = np.random.default_rng(2)
    base = generator.choice([0, 1], size=(3, 50))
    differences = np.concatenate([generator.choice([0, 1], size=(3, 50)) - base for _ in range(3)]).astype(float)
    se = 100 * differences.std(axis=1, ddof=1) / 50**0.5
    rows = transfer_rows(("m",), GRID).with_columns(se_pp=pl.Series(se))
    noise = measure_noise(rows, pairs_of(rows), blocks(rows, differences))
    assert np.abs(noise.loading).max() > 1
    assert noise.variance.mean() == pytest.approx((se**2).mean(), rel=0.02)
    assert noise.correlation.shape == (3, 3)


def test_models_that_err_on_the_same_items_do_not_average_out() -> None:
    generator = np.random.default_rng(3)
    one = generator.choice([-1.0, 0, 1], size=(9, 50))
    rows = transfer_rows(("m", "n"), GRID, se_pp=100 * one.std(ddof=1) / 50**0.5)
    alike = measure_noise(rows, pairs_of(rows), blocks(rows, np.concatenate([one, one])))
    other = generator.choice([-1.0, 0, 1], size=(9, 50))
    unlike = measure_noise(rows, pairs_of(rows), blocks(rows, np.concatenate([one, other])))
    assert unlike.variance.mean() < 0.7 * alike.variance.mean()


def test_a_pair_without_a_change_has_noise_of_its_own() -> None:
    generator = np.random.default_rng(4)
    rates = np.array([[0.02], [0.05], [0.1], [0.2], [0.0], [0.3], [0.1], [0.05], [0.2]])
    differences = generator.choice([-1.0, 1], size=(9, 50)) * (generator.random((9, 50)) < rates)
    rows = transfer_rows(("m",), GRID, se_pp=1.0)
    noise = measure_noise(rows, pairs_of(rows), blocks(rows, differences))
    assert 0 < noise.own[4] < noise.own.mean()
    none = measure_noise(rows.with_columns(se_pp=0.0), pairs_of(rows), blocks(rows, np.zeros((9, 50))))
    assert none.own == pytest.approx(np.full(9, RULE_OF_THREE * (100 / 50) ** 2))


def test_without_items_there_are_only_standard_errors_and_none_is_zero() -> None:
    rows = transfer_rows(("m", "n"), GRID, se_pp=2.0)
    noise = measure_noise(rows, pairs_of(rows), ())
    assert noise.own == pytest.approx(np.full(9, 2.0))
    assert not noise.loading.any()
    first = pl.int_range(pl.len()) % 9 == 0
    some = measure_noise(rows.with_columns(se_pp=pl.when(first).then(0.0).otherwise(2.0)), pairs_of(rows), ())
    assert some.own == pytest.approx(np.full(9, 2.0))
    for nothing in (0.0, None):
        unknown = measure_noise(rows.with_columns(se_pp=pl.lit(nothing, dtype=pl.Float64)), pairs_of(rows), ())
        assert np.isnan(unknown.own).all()


def test_seeds_add_their_noise_to_that_of_the_items(tmp_path: Path) -> None:
    transfer = read_transfer(write_run(tmp_path, item_rows()))
    rows = transfer.rows.filter((pl.col("regime") != "MT-ML") & (pl.col("model") == pl.col("model").first()))
    noise = measure_noise(rows, pairs_of(rows), transfer.items)
    assert (noise.own > 0).all()
    assert noise.variance.mean() == pytest.approx((rows["se_pp"] ** 2).mean(), rel=0.1)
