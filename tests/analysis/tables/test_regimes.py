import numpy as np
import polars as pl
import pytest
from scipy import stats

from tests.analysis.statistics.test_bootstrap import rows_with_items
from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.records import ALL_TRANSFER, EVERY_REGIME, in_regime
from transfergrid.analysis.statistics.bootstrap import ClusterBootstrap, resample_deltas
from transfergrid.analysis.statistics.group_draws import Group, resample_groups
from transfergrid.analysis.statistics.significance import EXACT_MCNEMAR
from transfergrid.analysis.statistics.true_rates import draw_true_deltas
from transfergrid.analysis.tables.facts import seeds_only
from transfergrid.analysis.tables.regimes import DIMENSIONS, NO_ROWS, NO_TRUE_RATES, regime_table
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime
from transfergrid.store.imported import SE_OF_SEEDS

SETTINGS = AnalysisConfig(bootstrap_resamples=200, seed=1)


def table(rows: pl.DataFrame, settings: AnalysisConfig = SETTINGS) -> pl.DataFrame:
    truth = draw_true_deltas(rows, (), settings)
    return regime_table(rows, resample_deltas(rows, (), settings), settings, truth)


def overall(found: pl.DataFrame, regime: str) -> dict[str, object]:
    return found.filter(regime=regime, by="all").row(0, named=True)


def random_rows(seed: int = 0) -> pl.DataFrame:
    return transfer_rows(MODELS, cells(), np.random.default_rng(seed).normal(0.3, 1.5, (2, 6, 6)))


def test_mean_median_win_and_harm_by_hand() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",)), [[9, -1.0, 2.0], [0.0, 9, -0.99], [4.0, -3.0, 9]])
    found = overall(table(rows), "MT-CL")
    assert found["n"] == 6
    assert found["mean_pp"] == pytest.approx(1.01 / 6)
    assert found["median_pp"] == pytest.approx(-0.495)
    assert found["win_rate"] == pytest.approx(2 / 6)
    # harm is delta <= -1, the threshold included
    assert found["harm_rate"] == pytest.approx(2 / 6)
    assert found["harm_threshold_pp"] == -1.0
    assert overall(table(rows), "MT-ML")["mean_pp"] == 9


def test_every_group_equals_a_slow_filter() -> None:
    rows = random_rows()
    for row in table(rows).iter_rows(named=True):
        part = rows.filter(in_regime(row["regime"]))
        part = part if row["by"] == "all" else part.filter(pl.col(row["by"]) == row["group"])
        assert row["n"] == part.height
        assert row["mean_pp"] == pytest.approx(part["delta_pp"].mean())
        assert row["median_pp"] == pytest.approx(part["delta_pp"].median())
        assert row["win_rate"] == pytest.approx((part["delta_pp"] > 0).mean())
        assert row["harm_rate"] == pytest.approx((part["delta_pp"] <= -1).mean())


def test_the_diagonal_is_left_out_of_all_transfer_and_every_dimension_is_there() -> None:
    found = table(random_rows())
    assert overall(found, ALL_TRANSFER)["n"] == 2 * 30
    assert set(found["by"]) == {"all", *DIMENSIONS}
    assert [row["regime"] for row in found.filter(by="all").iter_rows(named=True)] == list(EVERY_REGIME)


def test_a_regime_without_rows_says_so() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",)), np.ones((3, 3)))
    found = overall(table(rows), "CT-CL")
    assert (found["n"], found["reason"], found["mean_pp"]) == (0, NO_ROWS, None)


def test_intervals_hold_the_estimate_and_are_wider_for_fewer_rows() -> None:
    found = table(random_rows())
    known = found.filter(pl.col("mean_pp_low").is_not_null())
    assert known.height > 60
    for name in ("mean_pp", "win_rate", "harm_rate"):
        assert (known[f"{name}_low"] <= known[name]).all()
        assert (known[name] <= known[f"{name}_high"]).all()
    assert (known["median_pp_low"] <= known["median_pp"] + 1e-9).all()


def test_the_seed_decides_the_intervals() -> None:
    rows = random_rows()
    assert table(rows).equals(table(rows))
    other = table(rows, AnalysisConfig(bootstrap_resamples=200, seed=2))
    assert not table(rows)["win_rate_low"].equals(other["win_rate_low"])


def test_the_order_of_rows_does_not_matter() -> None:
    rows = random_rows()
    shuffled = rows.sample(fraction=1, shuffle=True, seed=3)
    first, second = table(rows), table(shuffled)
    for name in first.columns:
        if first[name].dtype == pl.Float64:
            assert first[name].to_list() == pytest.approx(second[name].to_list(), abs=1e-5)
        else:
            assert first[name].equals(second[name])


def test_a_model_that_only_shifts_targets_has_an_interval_from_targets() -> None:
    """All of the variance is between targets, so the interval must be as wide as that of a mean of 6 targets."""
    effect = np.array([-3.0, -1.0, 0.0, 1.0, 2.0, 4.0])
    rows = transfer_rows(tuple(f"m{place}" for place in range(5)), cells(), np.broadcast_to(effect, (5, 6, 6)))
    settings = AnalysisConfig(bootstrap_resamples=4000)
    found = overall(table(rows, settings), ALL_TRANSFER)
    width = found["mean_pp_high"] - found["mean_pp_low"]
    # t with 5 degrees of freedom, of which 95 % lie within 2.57
    assert width == pytest.approx(2 * 2.57 * effect.std(ddof=1) / 6**0.5, rel=0.05)


def test_one_source_and_one_target_have_no_interval_and_say_why() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",), ("de", "en")), [[0, 1], [2, 0]])
    found = table(rows).filter(regime="MT-CL", by="source_language")
    assert found["mean_pp_low"].null_count() == 2
    why = "no interval: one source and one target, and no items to resample"
    assert set(found["reason"]) == {f"{why}; {NO_TRUE_RATES}"}


def test_groups_that_are_often_empty_have_no_interval_and_say_why() -> None:
    # two languages: all draws of de for both sides or of en for both leave no row, 2 in 16
    rows = transfer_rows(("m",), cells(("arc_challenge",), ("de", "en")), [[0, 1], [2, 0]])
    found = overall(table(rows, AnalysisConfig(bootstrap_resamples=4000)), "MT-CL")
    assert (found["win_rate_low"], found["mean_pp_low"] is None) == (None, False)
    assert "empty in more than 10 % of the resamples" in str(found["reason"])


def test_items_are_resampled_where_there_are_any() -> None:
    rows, blocks = rows_with_items()
    draws = resample_deltas(rows, blocks, SETTINGS)
    found = overall(regime_table(rows, draws, SETTINGS, draw_true_deltas(rows, (), SETTINGS)), ALL_TRANSFER)
    assert found["resampled"] == "items, sources, targets"
    assert found["mean_pp_low"] < found["mean_pp"] < found["mean_pp_high"]


@pytest.mark.parametrize("factors", [("sources", "targets"), ("targets",), ("models", "sources")])
def test_bilinear_and_row_by_row_resamples_agree(factors: tuple[str, ...]) -> None:
    rows = random_rows()
    deltas = rows["delta_pp"].to_numpy()
    fixed = resample_deltas(rows, (), SETTINGS)
    groups = [
        Group(ALL_TRANSFER, "all", "all", np.arange(72)),
        Group(ALL_TRANSFER, "x", "y", np.array([3, 5, 8, 40, 41, 60])),
    ]
    settings = {"factors": factors, "harm_pp": -1.0}
    one = resample_groups(ClusterBootstrap(rows, fixed, SETTINGS), deltas, groups, **settings)
    wide = np.repeat(fixed, 200, axis=1)
    other = resample_groups(ClusterBootstrap(rows, wide, SETTINGS), deltas, groups, **settings)
    for first, second in zip(one, other, strict=True):
        assert np.allclose(first, second, atol=1e-5, equal_nan=True)


def test_significant_losses_lie_below_0_and_significant_harm_beyond_the_cut() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",)), [[0, -5, -5], [-0.5, 0, 3], [3, -2, 0]], n_items=400)
    # q in the order of the rows: small for one of two deltas of -5, for one loss of -0.5 and for one win
    q_values = [1.0, 0.01, 0.2, 0.01, 1.0, 0.04, 0.5, 0.9, 1.0]
    found = overall(table(rows.with_columns(q_value=pl.Series(q_values))), "MT-CL")
    assert found["harm_rate"] == pytest.approx(3 / 6)
    # both deltas of -5 lie 4 standard errors beyond the cut, -2 lies one beyond
    assert found["harm_rate_significant"] == pytest.approx(2 / 6)
    assert found["loss_rate_significant"] == pytest.approx(2 / 6)
    assert found["win_rate_significant"] == pytest.approx(1 / 6)
    assert found["n_tested"] == 6
    assert found["harm_threshold_items"] == 4
    # standard error 1, steps of 0.25: a true zero falls to -1 or below with probability Phi(-0.875)
    assert found["harm_rate_by_chance"] == pytest.approx(0.190787, abs=1e-5)
    items = rows.with_columns(
        p_method=pl.lit(EXACT_MCNEMAR), se_pp=pl.lit(100 * (20 / 400 / 399) ** 0.5), delta_pp=pl.lit(0.0)
    )
    # 20 of 400 items changed: lost - won is 4 or more if 12 or more were lost
    assert overall(table(items), "MT-CL")["harm_rate_by_chance"] == pytest.approx(stats.binom.sf(11, 20, 0.5))


def test_true_rates_stand_beside_the_nominal_ones_where_noise_is_known() -> None:
    rows = transfer_rows(("m",), cells(), np.random.default_rng(2).normal(0, 2, (1, 6, 6)), se_pp=2.0)
    found = overall(table(rows), ALL_TRANSFER)
    assert found["harm_rate_true_low"] < found["harm_rate_true"] < found["harm_rate_true_high"]
    assert found["harm_rate_true"] < found["harm_rate"]
    assert overall(table(rows), "MT-ML")["win_rate_true"] is None
    unknown = rows.with_columns(se_pp=pl.lit(None, dtype=pl.Float64))
    assert overall(table(unknown), ALL_TRANSFER)["win_rate_true"] is None


def test_chance_is_not_known_from_standard_errors_of_seeds() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",)), np.zeros((3, 3)))
    assert overall(table(rows), "MT-CL")["harm_rate_by_chance"] == pytest.approx(0.158655, abs=1e-5)
    found = overall(table(rows.with_columns(se_origin=pl.lit(SE_OF_SEEDS))), "MT-CL")
    assert (found["harm_rate_by_chance"], found["se_origin"], found["median_se_pp"]) == (None, "seeds", 1.0)
    assert seeds_only(found)
    # a table of which a part is imported is no better
    some = pl.when(pl.col("target_language") == "de").then(pl.lit(SE_OF_SEEDS)).otherwise("se_origin")
    mixed = overall(table(rows.with_columns(se_origin=some)), "MT-CL")
    assert (mixed["harm_rate_by_chance"], mixed["se_origin"]) == (None, "items, seeds")


def test_without_tests_the_significant_rates_are_null() -> None:
    found = overall(table(random_rows()), Regime.MT_CL.value)
    assert found["n_tested"] == 0
    assert found["harm_rate_significant"] is None
    assert found["harm_threshold_items"] is None


def test_constant_deltas_without_items_have_no_interval_of_the_mean_and_three_rows_room_for_rates() -> None:
    found = overall(table(transfer_rows(MODELS, cells(), np.full((2, 6, 6), 2.0))), ALL_TRANSFER)
    assert (found["mean_pp"], found["mean_pp_low"]) == (2.0, None)
    assert "nothing varies" in str(found["reason"])
    assert (found["harm_rate_low"], found["harm_rate_high"]) == pytest.approx((0.0, 3 / found["n"]))
    assert (found["win_rate_low"], found["win_rate_high"]) == pytest.approx((1 - 3 / found["n"], 1.0))
