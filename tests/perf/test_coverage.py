"""Intervals and labels hold the truth in made-up runs: `make coverage` in small, with wide bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from transfergrid.analysis.tables.registry import all_tables
from transfergrid.config.settings import AnalysisConfig
from transfergrid.perf.coverage.graded import GradedWorld, measure_graded
from transfergrid.perf.coverage.measures import Found, Line, measure, recommendations, summarise
from transfergrid.perf.coverage.stopping import stopped_at, stopping
from transfergrid.perf.coverage.world import NULL, Drawn, World, draw_run
from transfergrid.store.adaptive import Design, Seen, next_stop

SETTINGS = AnalysisConfig(bootstrap_resamples=200)
N_RUNS = 10


def lines_of(
    world: World, measured: Callable[[World, Drawn, AnalysisConfig], Iterator[Found]] = measure
) -> dict[str, Line]:
    generator = np.random.default_rng(3)
    found = [each for _ in range(N_RUNS) for each in measured(world, draw_run(world, generator), SETTINGS)]
    return {line.what: line for line in summarise(found)}


@pytest.fixture(scope="module")
def effects() -> dict[str, Line]:
    return lines_of(World(name="24 x 24, effects", n_languages=6))


@pytest.fixture(scope="module")
def nothing() -> dict[str, Line]:
    return lines_of(World(name="24 x 24, nothing", n_languages=6, **NULL))


def test_recommendations_hold_the_true_delta_and_are_nearer_to_it_than_what_was_observed(
    effects: dict[str, Line], nothing: dict[str, Line]
) -> None:
    assert 0.88 <= (effects["recommend"].held or 0) <= 0.99
    assert effects["rmse"].mean < 0.75 * effects["rmse of observed deltas"].mean
    assert (nothing["recommend"].held or 0) >= 0.95
    assert nothing["rmse"].mean < 0.4 * nothing["rmse of observed deltas"].mean


def test_where_few_answers_change_the_shared_noise_does_not_explain_the_targets_away() -> None:
    """A loading that each pair's own items gave, not one level per target, held 58 % here."""
    found = lines_of(World(name="24 x 24, 2 % change", n_languages=6, churn=0.02), recommendations)
    assert 0.85 <= (found["recommend"].held or 0) <= 0.99
    assert found["rmse"].mean < 0.8


def test_true_rates_hold_the_truth_and_nominal_ones_do_not(effects: dict[str, Line], nothing: dict[str, Line]) -> None:
    true, nominal = effects["harm_rate_true, all transfer"], effects["harm_rate, all transfer"]
    assert (true.held or 0) >= 0.8
    assert abs(true.mean - true.truth) < 0.04 < nominal.mean - true.truth
    assert (effects["win_rate_true, all transfer"].held or 0) >= 0.8
    # without any effect no delta is harmful, and more than a quarter seem to be
    assert nothing["harm_rate_true, all transfer"].mean < 0.1 < nothing["harm_rate, all transfer"].mean
    assert nothing["harm by chance - observed, all transfer"].mean == pytest.approx(0, abs=0.04)


def test_labels_and_discoveries_of_nothing_are_rare(nothing: dict[str, Line]) -> None:
    for what in ("some false label of a donor", "some false label of a recipient", "some q <= .05"):
        assert nothing[what].mean <= 0.3, what
    for role in ("donor", "recipient"):
        assert nothing[f"all ranks of {role}s held"].mean >= 0.7


def test_means_shares_and_single_deltas_hold_the_truth(effects: dict[str, Line], nothing: dict[str, Line]) -> None:
    assert 0.93 <= (effects["delta -/+ t se"].held or 0) <= 0.97
    for lines in (effects, nothing):
        assert (lines["mean_pp, all transfer"].held or 0) >= 0.8
    true, observed = effects["share_true of target"], effects["share of target"]
    assert (true.held or 0) >= 0.8
    assert abs(true.mean - true.truth) < 0.1 < abs(observed.mean - true.truth)
    without, with_noise = nothing["variance_true_pp2 of target"], nothing["variance_pp2 of target"]
    assert without.mean < 0.3 * with_noise.mean


def graded_lines(world: GradedWorld) -> dict[str, Line]:
    generator = np.random.default_rng(4)
    return {
        line.what: line for line in summarise([each for _ in range(12) for each in measure_graded(world, generator)])
    }


def test_graded_transfer_of_nothing_is_found_in_one_test_of_twenty_at_any_temperature() -> None:
    for world in (GradedWorld(name="", n_items=120), GradedWorld(name="", n_items=60, n_seeds=3)):
        found = graded_lines(world)
        assert 0.01 <= found["graded_p <= .05"].mean <= 0.1
        assert 0.9 <= (found["graded_pp"].held or 0) <= 0.99
        assert found["graded_p_below_0"].mean == pytest.approx(0.5, abs=0.15)


def test_graded_transfer_of_a_gain_holds_the_truth_and_is_found_more_often_than_by_accuracy() -> None:
    found = graded_lines(GradedWorld(name="", n_items=200, gain=0.3))
    assert 0.9 <= (found["graded_pp"].held or 0) <= 0.99
    assert found["graded_pp"].mean == pytest.approx(found["graded_pp"].truth, abs=0.8)
    assert found["graded_p <= .05"].mean > 1.5 * found["p_value of accuracy <= .05"].mean


def test_every_interval_that_a_table_prints_has_a_row(effects: dict[str, Line]) -> None:
    grid = GradedWorld(name="", n_items=40, n_tasks=2, n_languages=2, n_targets=2)
    measured = [*effects, *(found.what for found in measure_graded(grid, np.random.default_rng(0)))]
    named = {"score": "score of a", "low": "recommend", "graded": "graded_estimate_pp"}
    ends = [
        column.name for table in all_tables().values() for column in table.columns if "low" in column.name.split("_")
    ]
    for end in ends:
        stem = end.replace("_low", "") if end != "low_pp" else "low"
        stem = "minus_..." if end.startswith("minus") else stem
        first = named.get("graded" if end == "graded_low_pp" else stem.removesuffix("_pp"), stem)
        assert any(what.startswith(first) for what in measured), end
    assert {"mean_pp_low", "share_true_low", "rank_low", "graded_mean_pp_low", "minus_sum_pp_low"} <= set(ends)


def test_stopping_early_saves_half_keeps_most_decisions_and_biases_all_means_but_those_over_common_items() -> None:
    world, generator = World(name="24 x 24", n_languages=6, churn=0.06), np.random.default_rng(3)
    found = [each for _ in range(60) for each in stopping(world, generator)]
    lines = {line.what: line.mean for line in summarise(found)}
    assert 0.35 < lines["share of the items"] < 0.65
    assert lines["decisions kept"] > 0.8
    assert lines["wrong sign or no effect, of the decisions"] < 0.03
    assert lines["bias of the mean, items as scored"] < -0.1
    assert abs(lines["bias of the mean, common items"]) < 0.1
    assert lines["error of a source's mean, common items"] < lines["error of a source's mean, weighted"]


def test_stopped_made_up_pairs_are_those_of_the_rule() -> None:
    generator = np.random.default_rng(0)
    changes = generator.choice([-1, 0, 1], size=(300, 260), p=[0.03, 0.9, 0.07]).astype(np.int8)
    expected = []
    for row in changes:
        seen, base = Seen(), {str(item): 0.0 for item in range(260)}
        while (stop := next_stop(seen, 260, Design(), is_base=False)) is not None:
            seen = seen.plus({str(item): float(row[item]) for item in range(seen.n_items, stop)}, base)
        expected.append(seen.n_items)
    assert stopped_at(changes).tolist() == expected
    assert {100, 150, 260} <= set(expected)
