import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import MODELS, cells, item_rows, transfer_rows, write_run
from transfergrid.analysis.records import PAIR, ItemBlock, Transfer
from transfergrid.analysis.tables.recommendation import MATCHED, NO_DATA, NO_INTERVAL, NOTHING_SHARED
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


def answers(generator: np.random.Generator, effects: np.ndarray, n_items: int = 400) -> Transfer:
    """Base and adapters answer the items of 24 cells by the same probabilities, plus effects in pp, [24, 24]."""
    grid = cells(("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa"), ("de", "en", "es", "fr", "it", "pt"))
    right = np.where(generator.random((24, n_items)) < 0.5, 0.05, 0.95)
    base = generator.random((24, n_items)) < right
    adapter = generator.random((24, 24, n_items)) < right
    # one wrong answer in two turns right with probability 2 x effect, which lifts the score by the effect
    moved = generator.random(adapter.shape) < np.abs(effects)[:, :, None] / 50
    difference = np.where(moved, effects[:, :, None] > 0, adapter).astype(float) - base
    rows = transfer_rows(("m",), grid, 100 * difference.mean(axis=2)[None]).with_columns(
        se_pp=pl.Series(100 * difference.std(axis=2, ddof=1).ravel() / n_items**0.5)
    )
    return Transfer(pl.DataFrame(), rows, item_blocks(rows, difference.reshape(-1, n_items)))


def item_blocks(rows: pl.DataFrame, differences: np.ndarray) -> tuple[ItemBlock, ...]:
    return tuple(
        ItemBlock(
            task,
            rows.filter(target_task=task).select("model", *PAIR),
            tuple(f"q{item}" for item in range(differences.shape[1])),
            part := differences[(rows["target_task"] == task).to_numpy()].astype(np.float32),
            np.ones(part.shape, dtype=np.bool_),
        )
        for task in rows["target_task"].unique().sort()
    )


def each_target(transfer: Transfer) -> Iterator[tuple[pl.DataFrame, int]]:
    for place, target in enumerate(cells_of(transfer.rows)):
        if place % 6 == 0:
            found = recommend_from(transfer, AnalysisConfig(), target=target).table
            yield found.filter(pl.col("estimate_pp").is_not_null()), place


def cells_of(rows: pl.DataFrame) -> list[Cell]:
    return [Cell(*pair) for pair in rows.select("target_task", "target_language").unique().sort(pl.all()).iter_rows()]


def test_luck_of_the_baseline_that_all_sources_share_is_no_effect() -> None:
    holds_zero, sure = [], []
    for seed in range(6):
        for found, _ in each_target(answers(np.random.default_rng(seed), np.zeros((24, 24)))):
            holds_zero += ((found["low_pp"] <= 0) & (found["high_pp"] >= 0)).to_list()
            sure += (found["p_help"] > 0.95).to_list()
    assert np.mean(holds_zero) > 0.93
    assert np.mean(sure) < 0.05


def test_real_effects_are_covered_beside_shared_luck() -> None:
    hits, closer = [], []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        effects = generator.normal(0, 1, (24, 1)) + generator.normal(0, 1.5, (1, 24)) + generator.normal(0, 1, (24, 24))
        transfer = answers(generator, effects)
        sources = {cell: place for place, cell in enumerate(cells_of(transfer.rows))}
        for found, target in each_target(transfer):
            for row in found.iter_rows(named=True):
                real = effects[sources[Cell(row["source_task"], row["source_language"])], target]
                hits.append(row["low_pp"] < real < row["high_pp"])
                closer.append([(row["estimate_pp"] - real) ** 2, (row["observed_pp"] - real) ** 2])
    assert 0.9 < np.mean(hits) < 0.99
    assert np.mean(closer, axis=0)[0] < 0.7 * np.mean(closer, axis=0)[1]


def test_what_sources_share_cannot_be_known_without_items_and_the_note_says_so() -> None:
    transfer = answers(np.random.default_rng(0), np.zeros((24, 24)))
    target = Cell("hellaswag", "de")
    assert NOTHING_SHARED not in recommend_from(transfer, AnalysisConfig(), target=target).note
    without = Transfer(pl.DataFrame(), transfer.rows, ())
    assert NOTHING_SHARED in recommend_from(without, AnalysisConfig(), target=target).note


@pytest.mark.parametrize("imported", [False, True])
def test_a_pair_whose_answers_did_not_change_is_not_known_exactly(imported: bool) -> None:
    generator = np.random.default_rng(1)
    difference = generator.choice([-1.0, 1], size=(144, 1)) * (generator.random((144, 32)) < 0.15)
    difference[::5] = 0
    rows = transfer_rows(("m",), GRID, 100 * difference.mean(axis=1)).with_columns(
        se_pp=pl.Series(100 * difference.std(axis=1, ddof=1) / 32**0.5)
    )
    blocks = () if imported else item_blocks(rows, difference)
    found = recommend_from(Transfer(pl.DataFrame(), rows, blocks), AnalysisConfig(), target=TARGET).table
    estimated = found.filter(pl.col("estimate_pp").is_not_null())
    assert (estimated["observed_pp"] == 0).sum() > 1
    assert ((estimated["high_pp"] - estimated["low_pp"]) > 1).all()
    assert estimated["p_help"].null_count() == estimated["p_harm"].null_count() == 0


def test_no_change_anywhere_leaves_the_rule_of_three() -> None:
    rows = transfer_rows(("m",), GRID, np.zeros((1, 12, 12)), se_pp=0.0)
    transfer = Transfer(pl.DataFrame(), rows, item_blocks(rows, np.zeros((144, 32))))
    found = recommend_from(transfer, AnalysisConfig(), target=TARGET)
    assert NOTHING_SHARED not in found.note
    row = found.table.row(0, named=True)
    assert row["estimate_pp"] == pytest.approx(0)
    assert row["high_pp"] > 0.5
    assert row["p_help"] == pytest.approx(0.5)


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
