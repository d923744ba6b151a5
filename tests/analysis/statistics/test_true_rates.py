import numpy as np
import polars as pl
import pytest

from tests.analysis.synthetic import cells, transfer_rows
from transfergrid.analysis.records import ALL_TRANSFER, in_regime
from transfergrid.analysis.statistics.true_rates import N_DRAWS, draw_true_deltas, true_rates
from transfergrid.config.settings import AnalysisConfig

SETTINGS = AnalysisConfig()
GRID = cells(("arc_challenge", "global_mmlu", "hellaswag"), ("de", "en", "es", "fr"))


def test_rates_by_hand() -> None:
    truth = np.array([[1.0, -2.0], [1.0, 1.0], [-1.0, 0.0], [np.nan, np.nan]])
    found = true_rates(truth, [np.array([0, 1, 2]), np.array([2, 3])], harm_pp=-1.0, confidence=0.5)
    assert found["win_rate_true"].rate[0] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["harm_rate_true"].rate[0] == pytest.approx(1 / 3)
    # the second draw has one win of three, the first two
    assert (found["win_rate_true"].low[0], found["win_rate_true"].high[0]) == pytest.approx((5 / 12, 7 / 12))
    assert all(np.isnan(end[1]) for rates in found.values() for end in rates)


def test_intervals_hold_the_true_rates_where_observed_ones_are_far_off() -> None:
    generator = np.random.default_rng(2)
    held, nominal = [], []
    for _ in range(12):
        truth = generator.normal(0.5, 1, (1, 1, 12)) + generator.normal(0, 0.5, (1, 12, 12))
        rows = transfer_rows(("m",), GRID, truth + generator.normal(0, 2, truth.shape), se_pp=2.0)
        places = np.flatnonzero(rows.select(in_regime(ALL_TRANSFER)).to_series().to_numpy())
        found = true_rates(draw_true_deltas(rows, (), SETTINGS), [places], harm_pp=-1.0, confidence=0.95)
        for name, event in (("win_rate_true", truth > 0), ("harm_rate_true", truth <= -1)):
            rate = event.ravel()[places].mean()
            held.append(found[name].low[0] <= rate <= found[name].high[0])
        nominal.append((rows["delta_pp"].to_numpy()[places] <= -1).mean() - rate)
    assert np.mean(held) > 0.8
    assert np.mean(nominal) > 0.1


def test_rows_without_known_noise_or_outside_of_transfer_have_no_draws() -> None:
    rows = transfer_rows(("m", "n"), GRID, np.random.default_rng(0).normal(0, 1, (2, 12, 12)))
    some = rows.with_columns(se_pp=pl.when(pl.col("model") == "n").then(None).otherwise("se_pp"))
    found = draw_true_deltas(some, (), SETTINGS)
    assert found.shape == (288, N_DRAWS)
    known = ((pl.col("model") == "m") & (pl.col("regime") != "MT-ML")).alias("known")
    assert (np.isfinite(found[:, 0]) == rows.select(known).to_series().to_numpy()).all()
    few = rows.filter(source_task="hellaswag", source_language="fr", model="m")
    assert np.isnan(draw_true_deltas(few, (), SETTINGS)).all()
