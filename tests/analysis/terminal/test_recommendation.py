import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import MODELS, cells, item_rows, transfer_rows, write_run
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.tables.recommendation import MATCHED, NO_DATA, NO_INTERVAL
from transfergrid.analysis.terminal.recommendation import Recommendation, recommend, recommend_from
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder

GRID = cells(("arc_challenge", "global_mmlu", "hellaswag"), ("de", "en", "es", "fr"))
TARGET = Cell("hellaswag", "fr")
MANY = tuple(f"m{place}" for place in range(6))


def made_up(noise: float = 1.0, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of six models around known deltas of every pair, and those deltas, shape [sources, targets]."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 1, (12, 1)) + generator.normal(0, 2, (1, 12)) + generator.normal(0, 0.5, (12, 12))
    return transfer_rows(MANY, GRID, truth + noise * generator.normal(size=(6, 12, 12)), se_pp=noise), truth


def choose(rows: pl.DataFrame, **options: object) -> Recommendation:
    transfer = Transfer(by_seed=pl.DataFrame(), rows=rows, items=())
    return recommend_from(transfer, AnalysisConfig(), **{"target": TARGET, **options})


def test_every_source_is_ranked_once_best_first() -> None:
    found = choose(made_up()[0]).table
    assert found.height == 12
    estimates = found["estimate_pp"].drop_nulls().to_list()
    assert len(estimates) == 11
    assert estimates == sorted(estimates, reverse=True)


def truths(found: pl.DataFrame, truth: np.ndarray) -> tuple[pl.DataFrame, np.ndarray]:
    """The rows with an estimate, and the true deltas of their pairs."""
    there = found.filter(pl.col("estimate_pp").is_not_null())
    sources = [GRID.index(Cell(*pair)) for pair in there.select("source_task", "source_language").iter_rows()]
    return there, truth[sources, GRID.index(TARGET)]


def covered(found: pl.DataFrame, truth: np.ndarray) -> list[bool]:
    there, real = truths(found, truth)
    return list((there["low_pp"].to_numpy() < real) & (real < there["high_pp"].to_numpy()))


def squared_errors(found: pl.DataFrame, truth: np.ndarray) -> tuple[float, float]:
    """Mean squared errors of what is estimated and of what was observed."""
    there, real = truths(found, truth)
    return tuple(float(np.mean((there[name].to_numpy() - real) ** 2)) for name in ("estimate_pp", "observed_pp"))


def test_estimates_are_nearer_to_the_truth_than_what_was_observed() -> None:
    errors = []
    for seed in range(10):
        rows, truth = made_up(noise=4.0, seed=seed)
        errors.append(squared_errors(choose(rows).table, truth))
    shrunken, observed = np.mean(errors, axis=0)
    assert shrunken < 0.75 * observed


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    hits = []
    for seed in range(20):
        rows, truth = made_up(noise=2.0, seed=seed)
        hits += covered(choose(rows).table, truth)
    assert 0.88 < np.mean(hits) < 0.99


def test_without_standard_errors_the_spread_over_models_is_the_noise() -> None:
    hits = []
    for seed in range(20):
        rows, truth = made_up(noise=2.0, seed=seed)
        found = choose(rows.with_columns(se_pp=pl.lit(None, dtype=pl.Float64)))
        assert "spread over models, their overall levels taken off" in found.note
        hits += covered(found.table, truth)
    assert 0.88 < np.mean(hits) < 0.99


def test_levels_of_models_are_no_noise_of_the_pairs() -> None:
    """Three models whose levels differ far more than the pairs do."""
    hits, shrunken, observed = [], [], []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        truth = generator.normal(0, 1, (12, 1)) + generator.normal(0, 1.5, (1, 12)) + generator.normal(0, 1.5, (12, 12))
        of_models = truth + generator.normal(0, 3, (3, 1, 1))
        rows = transfer_rows(MANY[:3], GRID, of_models + generator.normal(0, 0.5, (3, 12, 12)), se_pp=0.5)
        found = choose(rows).table
        hits += covered(found, of_models.mean(axis=0))
        errors = squared_errors(found, of_models.mean(axis=0))
        shrunken.append(errors[0])
        observed.append(errors[1])
    assert 0.92 < np.mean(hits) < 0.98
    assert np.sqrt(np.mean(shrunken)) < 1.1 * np.sqrt(np.mean(observed))


def test_every_null_has_its_reason() -> None:
    rows = transfer_rows(MODELS, cells(("arc_challenge",), ("de", "en")), [[[0, 1], [2, 0]]] * 2, se_pp=None)
    found = choose(rows, target=Cell("arc_challenge", "de")).table
    row = found.filter(source_language="en").row(0, named=True)
    assert row["low_pp"] is row["p_help"] is None
    assert row["reason"] == f"not shrunken: 2 rows are too few for a mixed model; {NO_INTERVAL}"


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
    assert lines[0].strip() == "Sources for arc_challenge-de (2 models), best first"
    assert re.search(r"arc_challenge-(en|fr) +MT-CL +[+-]\d+\.\d\d +[+-]\d+\.\d\d \.\. ", capture.get())
    assert "harm: delta <= -1 pp" in capture.get()
    assert re.search(r"arc_challenge-en .*%  +[+-]\d+\.\d\d +\d+%\n", capture.get())  # graded, its P(help)


def shown(found: Recommendation) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


@pytest.mark.parametrize("shift", [-8.0, 8.0])
def test_a_table_in_which_nothing_helps_says_so(shift: float) -> None:
    rows = made_up()[0].with_columns(pl.col("delta_pp") + shift)
    assert ("none of them is more likely to help than not" in shown(choose(rows))) == (shift < 0)
    assert ("no source has a probability of harm above 50%" in shown(choose(rows, avoid=True))) == (shift > 0)


def test_a_table_without_any_estimate_recommends_nothing() -> None:
    matched = (pl.col("source_task") == pl.col("target_task")) & (
        pl.col("source_language") == pl.col("target_language")
    )
    rows = made_up()[0].with_columns(delta_pp=pl.when(matched).then("delta_pp"))
    assert "no source can be recommended: none has an estimate" in shown(choose(rows))


def test_names_are_no_markup_and_levels_are_not_rounded() -> None:
    rows = made_up()[0].filter(pl.col("model") == "m0").with_columns(model=pl.lit("x[/bold]-1B"))
    transfer = Transfer(by_seed=pl.DataFrame(), rows=rows, items=())
    text = shown(recommend_from(transfer, AnalysisConfig(confidence=0.975), target=TARGET))
    assert "Sources for hellaswag-fr (x[/bold]-1B), best first" in text
    assert "97.5% interval" in text
