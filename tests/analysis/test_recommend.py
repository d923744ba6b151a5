import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import MODELS, cells, item_rows, transfer_rows, write_run
from transfergrid.analysis.recommend import MATCHED, NO_DATA, Recommendation, recommend, recommend_from, shrink
from transfergrid.analysis.reml import fit_reml
from transfergrid.analysis.resampling import level_codes
from transfergrid.analysis.transfer import Transfer
from transfergrid.config import AnalysisConfig
from transfergrid.grid import Cell, RunFolder, UserError

GRID = cells(("arc_challenge", "global_mmlu", "hellaswag"), ("de", "en", "es", "fr"))
TARGET = Cell("hellaswag", "fr")
MANY = tuple(f"m{place}" for place in range(6))


def made_up(noise: float = 1.0, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of six models around known deltas of every pair, and those deltas, shape [sources, targets]."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 1, (12, 1)) + generator.normal(0, 2, (1, 12)) + generator.normal(0, 0.5, (12, 12))
    return transfer_rows(MANY, GRID, truth + noise * generator.normal(size=(6, 12, 12))), truth


def choose(rows: pl.DataFrame, **options: object) -> Recommendation:
    transfer = Transfer(by_seed=pl.DataFrame(), rows=rows, items=())
    return recommend_from(transfer, AnalysisConfig(), **{"target": TARGET, **options})


def test_every_source_is_ranked_once_best_first() -> None:
    found = choose(made_up()[0]).table
    assert found.height == 12
    estimates = found["estimate_pp"].drop_nulls().to_list()
    assert len(estimates) == 11
    assert estimates == sorted(estimates, reverse=True)


def test_estimates_are_nearer_to_the_truth_than_what_was_observed() -> None:
    shrunken, observed = [], []
    for seed in range(10):
        rows, truth = made_up(noise=4.0, seed=seed)
        for row in choose(rows).table.filter(pl.col("estimate_pp").is_not_null()).iter_rows(named=True):
            real = truth[GRID.index(Cell(row["source_task"], row["source_language"])), GRID.index(TARGET)]
            shrunken.append((row["estimate_pp"] - real) ** 2)
            observed.append((row["observed_pp"] - real) ** 2)
    assert np.mean(shrunken) < 0.75 * np.mean(observed)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    hits = []
    for seed in range(20):
        rows, truth = made_up(noise=2.0, seed=seed)
        for row in choose(rows).table.filter(pl.col("estimate_pp").is_not_null()).iter_rows(named=True):
            real = truth[GRID.index(Cell(row["source_task"], row["source_language"])), GRID.index(TARGET)]
            hits.append(row["low_pp"] < real < row["high_pp"])
    assert 0.88 < np.mean(hits) < 0.99


def test_conditional_means_equal_those_of_the_full_covariance() -> None:
    rows, _ = made_up()
    frame = rows.filter(model="m0").filter(pl.col("regime") != "MT-ML").sort("source_task", "source_language")
    observed = frame["delta_pp"].to_numpy()
    noise = np.full(len(observed), 0.3)
    codes = {
        "source": level_codes(frame, ("source_task", "source_language")),
        "target": level_codes(frame, ("target_task", "target_language")),
    }
    regimes = ["MT-CL", "CT-ML", "CT-CL"]
    x = np.stack([np.ones(len(observed)), *((frame["regime"] == name).to_numpy() for name in regimes[1:])], axis=1)
    fit = fit_reml(observed, codes, fixed=x.astype(float))
    same = [each[:, None] == each[None, :] for each in codes.values()]
    true = fit.variances[0] * same[0] + fit.variances[1] * same[1] + (fit.variances[2] - 0.3) * np.eye(len(observed))
    covariance = true + 0.3 * np.eye(len(observed))
    inverse = np.linalg.inv(covariance)
    beta = np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ observed)
    expected = x @ beta + true @ inverse @ (observed - x @ beta)
    slack = x - true @ inverse @ x
    spread = true - true @ inverse @ true + slack @ np.linalg.inv(x.T @ inverse @ x) @ slack.T
    mean, variance = shrink(frame, observed, noise)
    assert mean == pytest.approx(expected)
    assert variance == pytest.approx(np.diag(spread))


def test_without_noise_the_estimate_is_what_was_observed_and_all_noise_forgets_the_pair() -> None:
    rows, _ = made_up()
    frame = rows.filter(model="m0").filter(pl.col("regime") != "MT-ML")
    observed = frame["delta_pp"].to_numpy()
    mean, variance = shrink(frame, observed, np.zeros(len(observed)))
    assert mean == pytest.approx(observed)
    assert variance == pytest.approx(np.zeros(len(observed)), abs=1e-9)
    unknown, _ = shrink(frame, observed, np.full(len(observed), np.nan))
    assert np.abs(unknown - observed).max() > 0.1


def test_the_probability_of_harm_rises_as_the_estimate_falls() -> None:
    found = choose(made_up(noise=2)[0]).table.filter(pl.col("estimate_pp").is_not_null())
    harm, help_ = found["p_harm"].to_numpy(), found["p_help"].to_numpy()
    assert (np.diff(harm) >= -0.02).all()
    assert (harm + help_ <= 1).all()


def test_the_targets_own_cell_is_shown_as_measured() -> None:
    rows = made_up()[0]
    row = choose(rows).table.filter(reason=MATCHED).row(0, named=True)
    assert (row["source_task"], row["source_language"], row["regime"]) == ("hellaswag", "fr", "MT-ML")
    own = rows.filter(regime="MT-ML", target_task="hellaswag", target_language="fr")
    assert row["observed_pp"] == pytest.approx(own["delta_pp"].mean())
    assert row["estimate_pp"] is None


def test_a_source_without_data_says_so() -> None:
    rows = made_up()[0]
    gone = (rows["source_language"] == "de") & (rows["target_task"] == "hellaswag") & (rows["target_language"] == "fr")
    found = choose(rows.filter(~gone)).table.filter(source_language="de")
    assert set(found["reason"]) == {NO_DATA}
    assert found["estimate_pp"].null_count() == 3


def test_avoid_lists_likely_harm_worst_first() -> None:
    rows = made_up()[0]
    bad = pl.when(pl.col("source_language") == "es").then(-9.0).otherwise(0.0)
    found = choose(rows.with_columns(delta_pp=pl.col("delta_pp") + bad), avoid=True).table
    assert set(found["source_language"]) == {"es"}
    assert (found["p_harm"] > 0.5).all()
    assert found["p_harm"].is_sorted(descending=True)


def test_one_model_uses_its_own_standard_errors() -> None:
    rows = made_up()[0]
    found = choose(rows, model="m3")
    assert found.models == ("m3",)
    assert "standard errors of this model" in found.note
    assert "no standard errors" in choose(rows.with_columns(se_pp=pl.lit(None, dtype=pl.Float64)), model="m3").note


def test_a_grid_too_small_for_the_model_shows_what_was_observed_and_why() -> None:
    rows = transfer_rows(MODELS, cells(("arc_challenge",), ("de", "en")), [[[0, 1], [2, 0]]] * 2)
    found = choose(rows, target=Cell("arc_challenge", "de")).table
    row = found.filter(source_language="en").row(0, named=True)
    assert row["estimate_pp"] == row["observed_pp"] == 2
    assert row["reason"] == "not shrunken: 2 rows are too few for a mixed model"


def test_unknown_models_and_targets_are_refused() -> None:
    rows = made_up()[0]
    with pytest.raises(UserError, match=r"model 'mX' is not in the run; expected one of \['m0'"):
        choose(rows, model="mX")
    with pytest.raises(UserError, match="no data for target 'truthfulqa-bn'; expected one of"):
        choose(rows, target=Cell("truthfulqa", "bn"))


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run has no scores and no imported table"):
        recommend(RunFolder(tmp_path), target=TARGET)


def test_the_table_reads_at_80_columns(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows())
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(recommend(run, target=Cell("arc_challenge", "de")))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].strip() == "Sources to use for arc_challenge-de (2 models)"
    assert re.search(r"arc_challenge-(en|fr) +MT-CL +[+-]\d+\.\d\d +[+-]\d+\.\d\d \.\. ", capture.get())
    assert "harm: delta <= -1 pp" in capture.get()
