from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.analysis.synthetic import cells, item_rows, transfer_rows, write_run
from transfergrid.analysis.records import PAIR, ItemBlock
from transfergrid.analysis.statistics.pair_noise import RULE_OF_THREE, measure_noise, shared_part
from transfergrid.analysis.transfer.table import read_transfer

GRID = cells(("arc_challenge",), ("de", "en", "es"))
ITEMS = tuple(f"q{item}" for item in range(50))


def blocks(rows: pl.DataFrame, differences: np.ndarray) -> tuple[ItemBlock, ...]:
    scored = np.ones(differences.shape, dtype=np.bool_)
    return (ItemBlock("arc_challenge", rows.select("model", *PAIR), ITEMS, differences.astype(np.float32), scored),)


def pairs_of(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(PAIR).agg(n_models=pl.len().cast(pl.Int64)).sort(PAIR)


def test_loadings_and_correlation_of_made_up_noise_are_found() -> None:
    generator = np.random.default_rng(0)
    sources, targets = (each.ravel() for each in np.indices((20, 3)))
    loading = generator.uniform(0, 1, 60)
    correlation = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    n_draws = 20_000
    factors = np.linalg.cholesky(correlation) @ generator.normal(size=(3, n_draws))
    noise = loading[:, None] * factors[targets] + 0.5 * generator.normal(size=(60, n_draws))
    found, between = shared_part(noise / n_draws**0.5, sources, targets)
    assert found == pytest.approx(loading, abs=0.08)
    assert between == pytest.approx(correlation, abs=0.05)


def test_sources_without_common_noise_share_nothing() -> None:
    generator = np.random.default_rng(0)
    loading, _ = shared_part(generator.normal(size=(20, 4000)) / 4000**0.5, np.arange(20), np.zeros(20, dtype=int))
    assert loading.mean() < 0.2


def test_own_and_shared_noise_add_up_to_the_standard_errors() -> None:
    generator = np.random.default_rng(2)
    base = generator.choice([0, 1], size=(3, 50))
    differences = np.concatenate([generator.choice([0, 1], size=(3, 50)) - base for _ in range(3)]).astype(float)
    se = 100 * differences.std(axis=1, ddof=1) / 50**0.5
    rows = transfer_rows(("m",), GRID).with_columns(se_pp=pl.Series(se))
    noise = measure_noise(rows, pairs_of(rows), blocks(rows, differences))
    assert noise.loading.max() > 1
    assert noise.variance.mean() == pytest.approx((se**2).mean(), rel=1e-3)
    assert noise.correlation.shape == (3, 3)


def test_models_that_err_on_the_same_items_do_not_average_out() -> None:
    generator = np.random.default_rng(3)
    one = generator.choice([-1.0, 0, 1], size=(9, 50))
    rows = transfer_rows(("m", "n"), GRID, se_pp=100 * one.std(ddof=1) / 50**0.5)
    alike = measure_noise(rows, pairs_of(rows), blocks(rows, np.concatenate([one, one])))
    other = generator.choice([-1.0, 0, 1], size=(9, 50))
    unlike = measure_noise(rows, pairs_of(rows), blocks(rows, np.concatenate([one, other])))
    assert unlike.variance.mean() < 0.7 * alike.variance.mean()


def test_a_pair_without_a_change_has_noise_of_its_own_but_shares_none() -> None:
    generator = np.random.default_rng(4)
    rates = np.array([[0.02], [0.05], [0.1], [0.2], [0.0], [0.3], [0.1], [0.05], [0.2]])
    differences = generator.choice([-1.0, 1], size=(9, 50)) * (generator.random((9, 50)) < rates)
    rows = transfer_rows(("m",), GRID, se_pp=1.0)
    noise = measure_noise(rows, pairs_of(rows), blocks(rows, differences))
    assert noise.loading[4] == 0
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
