from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tests.analysis.statistics.test_bootstrap import rows_with_items
from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.reml import fit_reml
from transfergrid.analysis.tables.variance import CROSSED, NESTED, PARTS, SINGULAR, variance_intervals, variance_table
from transfergrid.config.settings import AnalysisConfig
from transfergrid.config.text import PAPER_MODELS
from transfergrid.grid import Grid

SETTINGS = AnalysisConfig()
NAMES = tuple(path.rsplit("/", 1)[-1] for path in PAPER_MODELS)


def full_rows() -> pl.DataFrame:
    """The study's shape, 9 x 44 x 44, with variances model 0.25, source 0.16, target 4, residual 1."""
    generator = np.random.default_rng(11)
    grid = Grid().cells
    # effects with exactly the wanted spread, so that the estimates have little reason to differ
    effects = [stats.zscore(generator.normal(size=size), ddof=1) for size in (9, 44, 44)]
    model, source, target = (scale * each for scale, each in zip((0.5, 0.4, 2.0), effects, strict=True))
    noise = generator.normal(size=(9, 44, 44))
    return transfer_rows(NAMES, grid, 0.9 + model[:, None, None] + source[:, None] + target + noise)


def component(found: pl.DataFrame, fit: str, regime: str, name: str) -> dict[str, object]:
    return found.filter(fit=fit, regime=regime, component=name).row(0, named=True)


def test_known_components_of_the_full_grid_are_recovered() -> None:
    found = variance_table(full_rows(), SETTINGS)
    for regime in ("all transfer", "MT-CL", "CT-CL"):
        crossed = {name: component(found, CROSSED, regime, name) for name in ("model", "source", "target", "residual")}
        expected = {"model": 0.25, "source": 0.16, "target": 4.0, "residual": 1.0}
        for name, variance in expected.items():
            assert crossed[name]["variance_pp2"] == pytest.approx(variance, rel=0.2, abs=0.02)
            assert crossed[name]["variance_pp2_low"] < variance < crossed[name]["variance_pp2_high"]
            share = variance / sum(expected.values())
            assert crossed[name]["share_low"] < share < crossed[name]["share_high"]
        assert sum(row["share"] for row in crossed.values()) == pytest.approx(1)
    nested = found.filter(fit=NESTED, regime="CT-CL")
    assert nested["component"].to_list() == ["model", "source", "target", "residual"]
    assert component(found, CROSSED, "CT-CL", "target")["n_levels"] == 44


def test_task_and_language_are_components_of_their_own() -> None:
    generator = np.random.default_rng(2)
    grid = Grid().cells
    languages = dict(zip(sorted({cell.language for cell in grid}), generator.normal(0, 3, 11), strict=True))
    target = np.array([languages[cell.language] for cell in grid])
    rows = transfer_rows(NAMES, grid, target + generator.normal(size=(9, 44, 44)))
    found = variance_table(rows, SETTINGS).filter(fit=PARTS, regime="CT-CL")
    assert found.filter(pl.col("share").is_not_null()).sort("share")["component"].to_list()[-1] == "target language"
    merged = variance_table(rows, SETTINGS).filter(fit=PARTS, regime="MT-CL", component="target task")
    assert merged["reason"].to_list() == ["groups the rows as 'source task' does: the two cannot be told apart"]


def test_one_model_has_no_model_component_but_the_others() -> None:
    rows = full_rows().filter(model=NAMES[0])
    found = variance_table(rows, SETTINGS)
    model = component(found, CROSSED, "CT-CL", "model")
    assert (model["variance_pp2"], model["reason"]) == (
        None,
        "one level only: its variance cannot be told from the mean",
    )
    assert component(found, CROSSED, "CT-CL", "target")["variance_pp2"] == pytest.approx(4, rel=0.3)


def test_a_singular_fit_says_so_and_keeps_the_others() -> None:
    generator = np.random.default_rng(5)
    noise = generator.normal(size=(2, 6, 6))
    noise -= noise.mean(axis=(1, 2), keepdims=True)
    found = variance_table(transfer_rows(MODELS, cells(), noise + np.arange(6)), SETTINGS)
    singular = found.filter(fit=CROSSED, regime="all transfer", variance_pp2=0)
    assert "model" in singular["component"].to_list()
    assert set(singular["reason"]) == {SINGULAR}
    assert singular["variance_pp2_low"].null_count() == singular.height
    assert component(found, CROSSED, "all transfer", "target")["share"] > 0.5


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            transfer_rows(MODELS, cells(), np.ones((2, 6, 6))),
            "every delta is the same, so there is no variance to decompose",
        ),
        (
            transfer_rows(("m",), cells(("arc_challenge",), ("de", "en")), np.eye(2)),
            "2 rows are too few for a mixed model",
        ),
    ],
)
def test_what_cannot_be_decomposed_says_why(rows: pl.DataFrame, reason: str) -> None:
    found = variance_table(rows, SETTINGS).filter(fit=CROSSED, regime="MT-CL")
    assert found["reason"].to_list() == [reason]
    assert found["component"].to_list() == ["all"]


def test_an_empty_regime_says_why() -> None:
    rows = transfer_rows(MODELS, cells(("arc_challenge",)), np.random.default_rng(0).normal(size=(2, 3, 3)))
    found = variance_table(rows, SETTINGS).filter(fit=NESTED, regime="CT-CL")
    assert found["reason"].to_list() == ["0 rows are too few for a mixed model"]


def test_no_factor_that_recurs_is_said() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",)), np.arange(9).reshape(3, 3))
    found = variance_table(rows, SETTINGS).filter(fit=CROSSED, regime="MT-ML")
    assert found["reason"].to_list() == ["no factor has two levels that recur, so there is nothing to decompose"]


def test_wald_intervals_by_hand() -> None:
    """One variance with variance v and standard error s: v exp(-/+ 1.96 s / v)."""
    rows = full_rows().filter(regime="CT-CL")
    fit = fit_reml(rows["delta_pp"].to_numpy(), {"target": level_codes(rows, ("target_task", "target_language"))})
    ends = variance_intervals(fit, 0.95)
    error = np.sqrt(np.linalg.inv(fit.information)[0, 0])
    value = fit.variances[0]
    assert ends[0, :2] == pytest.approx(
        [value * np.exp(-1.959964 * error / value), value * np.exp(1.959964 * error / value)]
    )
    tiny = replace(fit, variances=np.array([1e-3 * error, fit.variances[1]]))
    assert np.isnan(variance_intervals(tiny, 0.95)[0, :2]).all()  # its ends would be 1,000 times as little and as much
    # two shares add up to 1, so their intervals mirror each other
    assert ends[0, 2] == pytest.approx(1 - ends[1, 3])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    source, target = (each.ravel() for each in np.indices((12, 40)))
    hits = 0
    for _ in range(200):
        y = generator.normal(size=12)[source] + 2 * generator.normal(size=40)[target] + generator.normal(size=480)
        ends = variance_intervals(fit_reml(y, {"source": source, "target": target}), 0.9)
        hits += ends[1, 0] < 4.0 < ends[1, 1]
    assert 0.83 < hits / 200 < 0.97


def test_noise_of_items_is_taken_off_and_a_table_of_noise_only_has_no_shares() -> None:
    rows, items = rows_with_items()
    found = variance_table(rows, SETTINGS, items=items).filter(fit="crossed", regime="all transfer")
    known = found.filter(pl.col("variance_pp2") > 0)
    assert known.height >= 1
    assert known["variance_true_pp2"].null_count() == 0
    # all of it is noise, so what is left is a small part of what was there
    assert known["variance_true_pp2"].sum() < 0.5 * known["variance_pp2"].sum()
    assert known["share_true"].null_count() == known.height
    some = variance_table(rows, SETTINGS, items=items[:1]).filter(fit="crossed", regime="all transfer")
    assert some["variance_true_pp2"].null_count() == some.height
