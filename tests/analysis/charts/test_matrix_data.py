from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.analysis.report.runs import DE, EN, TOO_LONG, UNSCORED, place_of, random_deltas, write_holed_run
from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.charts.matrix_data import ALL_MODELS, NOT_THERE, colour_limit, half_width, matrix_data
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.config.settings import AnalysisConfig

SETTINGS = AnalysisConfig()


def with_df(frame: pl.DataFrame, df: float | None = 9.0) -> pl.DataFrame:
    return frame.with_columns(df=pl.lit(df, dtype=pl.Float64), base_score=pl.lit(0.4))


def test_a_sure_gain_an_unscored_pair_and_their_numbers(tmp_path: Path) -> None:
    matrix = matrix_data(read_transfer(write_holed_run(tmp_path)).rows, SETTINGS)
    view, _ = matrix["views"]
    gain = place_of(matrix, DE, EN)
    assert (view["delta_pp"][gain], view["significant"][gain], view["n_items"][gain]) == (100.0, 1, 32)
    assert view["reason"][gain] is None
    lost = place_of(matrix, *UNSCORED)
    assert (view["delta_pp"][lost], view["half_pp"][lost], view["significant"][lost]) == (None, None, None)
    assert matrix["reasons"][view["reason"][lost]] == f"no item scored: {TOO_LONG}"
    assert sum(reason is not None for reason in view["reason"]) == 1


def test_graded_transfer_has_views_of_its_own(tmp_path: Path) -> None:
    rows = read_transfer(write_holed_run(tmp_path)).rows
    matrix = matrix_data(rows, SETTINGS)
    view, graded = matrix["views"]
    assert graded["name"] == f"{view['name']}, graded transfer"
    gain, lost = place_of(matrix, DE, EN), place_of(matrix, *UNSCORED)
    row = rows.filter(source_language="de", target_language="en").row(0, named=True)
    assert graded["delta_pp"][gain] == pytest.approx(row["graded_pp"], abs=0.0051)
    assert graded["half_pp"][gain] == pytest.approx((row["graded_pp_high"] - row["graded_pp_low"]) / 2, abs=0.0051)
    assert graded["base_score"] == []
    assert matrix["reasons"][graded["reason"][lost]] == f"no item scored: {TOO_LONG}"


def test_every_delta_stands_at_its_place() -> None:
    deltas = random_deltas(2, 6, 6)
    matrix = matrix_data(with_df(transfer_rows(MODELS, cells(), deltas)), SETTINGS)
    assert [view["name"] for view in matrix["views"]] == [ALL_MODELS, *MODELS]
    for view, expected in zip(matrix["views"], (deltas.mean(axis=0), *deltas), strict=True):
        assert view["delta_pp"] == pytest.approx(expected.ravel(), abs=0.0051)
    assert matrix["sources"] == [[cell.task, cell.language, cell.name] for cell in cells()]


def test_the_mean_over_models_has_a_t_interval_across_them() -> None:
    deltas = np.array([1.0, 3.0]).reshape(2, 1, 1)
    (mean, *_) = matrix_data(with_df(transfer_rows(MODELS, cells()[:1], deltas)), SETTINGS)["views"]
    # by hand: sd 1.4142, se 1.0, t(0.975, 1 df) = 12.7062
    assert (mean["delta_pp"], mean["half_pp"], mean["n"]) == ([2.0], [12.71], [2])


def test_the_mean_counts_models_with_a_significant_gain_or_loss() -> None:
    rows = with_df(transfer_rows(MODELS, cells()[:1], np.array([1.0, -3.0]).reshape(2, 1, 1)))
    rows = rows.with_columns(q_value=pl.Series([0.2, 0.01]))
    mean, first, second = matrix_data(rows, SETTINGS)["views"]
    assert (mean["n_tested"], mean["n_gain"], mean["n_loss"]) == ([2], [0], [1])
    assert (first["significant"], second["significant"]) == ([0], [1])


def test_without_standard_errors_there_is_no_interval_and_no_test() -> None:
    rows = with_df(transfer_rows(MODELS[:1], cells()[:2], se_pp=None), None)
    (view,) = matrix_data(rows, SETTINGS)["views"]
    assert view["half_pp"] == view["significant"] == view["q_value"] == []


def test_a_pair_that_is_nowhere_says_so() -> None:
    rows = with_df(transfer_rows(MODELS[:1], cells()[:2]))[:3]
    matrix = matrix_data(rows, SETTINGS)
    assert matrix["reasons"][matrix["views"][0]["reason"][3]] == NOT_THERE


def test_half_width_is_student_t_and_unknown_at_a_standard_error_of_zero() -> None:
    # t(0.975, 10 df) = 2.2281
    found = half_width(pl.Series([1.0, 0.0, None]), pl.Series([10.0, 10.0, 10.0]), 0.95)
    assert found.round(4).to_list() == [2.2281, None, None]


@pytest.mark.parametrize(
    ("deltas", "limit"),
    [([], 1.0), ([0.0, 0.2], 1.0), ([-2.2], 2.5), ([7.0, -8.0], 8.0), ([91.0], 100.0), ([12.0], 15.0)],
)
def test_the_colour_scale_ends_at_a_round_number(deltas: list[float], limit: float) -> None:
    assert colour_limit(np.array(deltas)) == pytest.approx(limit)
