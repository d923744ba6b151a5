"""The power before a run is what simulations of it give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from scipy import special

from tests.analysis.synthetic import item_rows, write_run
from transfergrid.analysis.records import ALL_TRANSFER, PAIR, in_regime
from transfergrid.analysis.statistics import power
from transfergrid.analysis.statistics.power import Noise
from transfergrid.analysis.statistics.significance import benjamini_hochberg, mcnemar_exact_p
from transfergrid.analysis.tables.power import (
    CURVE_ITEMS,
    CURVE_SEEDS,
    grid_of,
    measured_noise,
    plan_power,
    power_curves,
    power_table,
)
from transfergrid.analysis.tables.recommendation import estimate_pairs, noisy_pairs
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.cli import main
from transfergrid.config.settings import AnalysisConfig, DataConfig, GridConfig
from transfergrid.grid import LANGUAGES, TASKS, Cell, Grid, Regime, UserError, regime_of
from transfergrid.perf.coverage.stopping import stopped_at
from transfergrid.perf.coverage.world import World, draw_answers, draw_run
from transfergrid.store.folder import RunFolder

WORLD = World(name="24 x 24", n_languages=6)
NOISE = Noise(400, 0.114)
"""12 % of a made-up run's answers change, less where both sides are wrong."""


def test_a_pair_at_the_smallest_delta_is_found_in_four_of_five_runs() -> None:
    generator = np.random.default_rng(0)
    sd = np.hypot(np.hypot(power.SOURCE_SD, power.TARGET_SD), power.PAIR_SD)
    delta = power.pair_delta(NOISE, 1892, 0.05)
    found = []
    for _ in range(40):
        deltas = np.append(generator.normal(0.8, sd, 1882), np.full(10, delta))
        probabilities = np.stack([(0.114 + deltas / 100) / 2, (0.114 - deltas / 100) / 2, np.full(1892, 0.886)], axis=1)
        counts = generator.multinomial(400, np.maximum(probabilities, 0))
        found.append(benjamini_hochberg(mcnemar_exact_p(counts[:, 1], counts[:, 0]))[-10:] <= 0.05)
    assert np.mean(found) == pytest.approx(power.POWER, abs=0.07)


def test_a_stopped_pair_is_found_as_often_as_item_by_item() -> None:
    noise, n_pairs, generator = Noise(600, 0.12), 1892, np.random.default_rng(0)
    delta = power.adaptive_pair_delta(noise, n_pairs, 0.05)
    assert delta > power.pair_delta(noise, n_pairs, 0.05)
    rates = [(0.12 - delta / 100) / 2, 0.88, (0.12 + delta / 100) / 2]
    changes = generator.choice([-1, 0, 1], size=(4000, 600), p=rates).astype(np.int8)
    net, changed = changes.sum(axis=1, dtype=float), np.abs(changes).sum(axis=1, dtype=float)
    z = special.ndtri(1 - power.bh_threshold(noise, n_pairs, 0.05) / 2)
    found = (stopped_at(changes) == 600) & (net / np.sqrt(changed) >= z)
    assert found.mean() == pytest.approx(power.POWER, abs=0.03)


def test_the_mean_of_a_regime_spreads_over_runs_as_its_smallest_delta_says() -> None:
    generator, cells = np.random.default_rng(1), WORLD.cells
    delta = power.regime_delta(NOISE, Grid(TASKS, LANGUAGES[:6]), Regime.MT_CL, 0.95)
    se = delta / (special.stdtrit(23, 0.975) + special.stdtrit(23, power.POWER))
    member = np.array([[regime_of(source, target) == Regime.MT_CL for target in cells] for source in cells])
    means = []
    for _ in range(60):
        _, ((answers,),) = draw_answers(WORLD, generator)
        deltas = 100 * (answers.adapters.mean(axis=2) - answers.base.mean(axis=1))
        means.append(deltas[member].mean())
    assert np.std(means) == pytest.approx(se, rel=0.25)


def test_the_reliability_of_recommendations_is_that_of_the_full_covariance() -> None:
    noise, cells = Noise(100, 0.1, 3), [Cell(task, language) for task in ("a", "b", "c") for language in ("de", "en")]
    pairs = [(source, target) for source in cells for target in cells]

    def effects(one: tuple[Cell, Cell], other: tuple[Cell, Cell]) -> float:
        same = [a == b for a, b in zip(one, other, strict=True)]
        return power.SOURCE_SD**2 * same[0] + power.TARGET_SD**2 * same[1] + power.PAIR_SD**2 * all(same)

    def errors(one: tuple[Cell, Cell], other: tuple[Cell, Cell]) -> float:
        if one[1].task != other[1].task:
            return 0.0
        by_target = [[power.SAME_ITEMS, power.SAME_SOURCE], [power.SAME_TARGET, 1.0]]
        return noise.variance * by_target[one[1] == other[1]][one[0] == other[0]]

    of_effects, of_errors = (
        np.array([[covariance(one, other) for other in pairs] for one in pairs]) for covariance in (effects, errors)
    )
    predicted = np.diag(of_effects @ np.linalg.solve(of_effects + of_errors, of_effects)).mean()
    spread = of_effects[0, 0]
    share = predicted / spread
    needed = special.ndtri(0.95) * np.sqrt(spread - predicted) + special.ndtri(0.8) * np.sqrt(predicted * (1 - share))
    expected = 0.8 + (needed - 0.8) / share
    assert power.recommendation_delta(noise, 3, 6, 0.95) == pytest.approx(expected)


def test_pairs_at_the_smallest_delta_are_recommended_in_about_four_of_five_runs() -> None:
    delta = power.recommendation_delta(NOISE, 4, 24, 0.95)
    found: list[float] = []
    for seed in range(6):
        drawn = draw_run(WORLD, np.random.default_rng(seed))
        place = {(cell.task, cell.language): at for at, cell in enumerate(WORLD.cells)}
        rows = drawn.transfer.rows.filter(in_regime(ALL_TRANSFER))
        table = estimate_pairs(noisy_pairs(rows, drawn.transfer.items), AnalysisConfig())
        true = [drawn.truth.pairs[0, place[pair[:2]], place[pair[2:]]] for pair in table.select(PAIR).iter_rows()]
        near = np.abs(np.array(true) - delta) < 0.4
        found += (table["p_help"].to_numpy() > 0.95)[near].tolist()
    assert len(found) > 30
    assert np.mean(found) == pytest.approx(power.POWER, abs=0.15)


def test_items_for_a_goal_are_the_fewest_that_reach_it() -> None:
    found = power.items_needed(lambda noise: power.pair_delta(noise, 1892, 0.05), NOISE, 1.0)
    assert found is not None
    at, below = (power.pair_delta(NOISE._replace(n_items=n), 1892, 0.05) for n in (found, found - 20))
    assert at <= 1.0 < below
    assert power.items_needed(lambda noise: 1.5, NOISE, 1.0) is None
    assert power.seeds_needed(lambda noise: 5 / noise.n_seeds, NOISE, 1.0) == 5
    assert power.seeds_needed(lambda noise: 1.5, NOISE, 1.0) is None


def test_a_plan_knows_more_the_more_the_run_folder_has(tmp_path: Path) -> None:
    config = GridConfig(tasks=("arc_challenge", "global_mmlu"), languages=("de", "en", "fr"), seeds=(17, 42))
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="run 'grid data' or 'grid plan' first"):
        plan_power(config, run)
    known = config.model_copy(update={"data": DataConfig(max_test_items=400)})
    assumed = plan_power(known, run).rows()
    assert assumed.select("noise", "n_items", "n_seeds", "change_rate").row(0) == ("assumed", 400, 2, 0.12)
    rows = item_rows()
    of_base = write_run(tmp_path / "base", rows.filter(pl.col("seed").is_null()))
    baselines = plan_power(config, of_base).rows()
    accuracy = rows.filter(pl.col("seed").is_null())["pred"].eq(0).mean()
    assert baselines.select("noise", "n_items").row(0) == ("baselines", 12)
    assert baselines["change_rate"][0] == pytest.approx(power.expected_change(float(accuracy)), rel=0.2)  # type: ignore[arg-type]
    whole = write_run(tmp_path / "whole", rows)
    measured = plan_power(config, whole).rows()
    by_seed = read_transfer(whole).by_seed
    change = (by_seed["n_only_base"] + by_seed["n_only_adapter"]).sum() / by_seed["n_items"].sum()
    assert measured["noise"][0] == "measured"
    assert measured["change_rate"][0] == pytest.approx(change)
    noise = measured_noise(by_seed)
    assert noise is not None
    assert noise.n_seeds == 2


def test_one_cell_has_no_power_and_says_why() -> None:
    config = GridConfig(tasks=("arc_challenge",), languages=("de",), data=DataConfig(max_test_items=400))
    found = plan_power(config, RunFolder(Path("nowhere"))).rows()
    assert found["smallest_delta_pp"].null_count() == found.height == 4
    assert found["reason"].str.contains("fewer than two sources").all()


def test_grid_plan_shows_the_table_and_its_assumptions(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("data: {max_test_items: 400}\nseeds: [17]\n")
    command = ["plan", "--power", "--config", str(tmp_path / "grid.yaml"), "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "What 400 items and 1 seed(s) can show" in result.output
    assert "Noise: assumed, 12.0% of the answers change" in result.output
    assert len(CliRunner().invoke(main, [*command, "--json"]).output.split('"statement"')) == 7


def test_the_curves_of_power_are_the_tables_numbers_at_other_items_and_seeds(tmp_path: Path) -> None:
    transfer = read_transfer(write_run(tmp_path, item_rows()))
    curves = power_curves(transfer.rows, transfer.by_seed, AnalysisConfig())
    noise = measured_noise(transfer.by_seed)
    assert noise is not None
    grid = Grid(("arc_challenge", "global_mmlu"), ("de", "en", "fr"))
    expected = power_table(noise._replace(n_items=200, n_seeds=3), grid, AnalysisConfig(), origin="measured")
    found = curves.filter(n_items=200, n_seeds=3)
    assert found["statement"].to_list() == expected["statement"].to_list()
    assert found["delta_pp"].to_list() == pytest.approx(expected["smallest_delta_pp"].to_list())
    assert curves.height == expected.height * len(CURVE_ITEMS) * len(CURVE_SEEDS)
    assert power_curves(transfer.rows, transfer.by_seed.clear(), AnalysisConfig()).is_empty()


def test_a_grid_whose_tasks_have_languages_of_their_own_has_the_pairs_that_are_there(tmp_path: Path) -> None:
    in_grid = pl.col("target_language").ne("fr") | pl.col("target_task").ne("arc_challenge")
    transfer = read_transfer(write_run(tmp_path, item_rows().filter(in_grid, pl.col("source") != "arc_challenge-fr")))
    grid = grid_of(transfer.rows)
    assert (len(grid.cells), len(grid.pairs)) == (5, 20)
    targets_only = grid_of(transfer.rows.filter(pl.col("source_task") == "global_mmlu"))
    assert (len(targets_only.cells), len(targets_only.pairs)) == (5, 12)
    noise = measured_noise(transfer.by_seed)
    assert noise is not None
    table = power_table(noise, grid, AnalysisConfig(), origin="measured")
    assert table.filter(statement="pair")["smallest_delta_pp"].item() == pytest.approx(
        power.pair_delta(noise, 20, 0.05)
    )
