"""The end of a sweep as tables, JSON and sentences."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import item_frame
from transfergrid.engine.evaluation.summary import SHOWN_FAULTS, EvaluationReport, Totals, mean_deltas, score_cells
from transfergrid.engine.work.failures import Failure
from transfergrid.store.counts import sum_counts


def item(source: str | None, target: str, item_id: str, pred: int | None, **changes: Any) -> dict[str, Any]:
    source_task, _, source_language = (source or "").partition("-")
    task, _, language = target.partition("-")
    row = {
        "model": "tiny",
        "seed": None if source is None else 17,
        "source_task": source_task or None,
        "source_language": source_language or None,
        "target_task": task,
        "target_language": language,
        "item_id": item_id,
        "gold": 0,
        "pred": pred,
        "pred_norm": pred,
        "primary_metric": "acc",
        "run_key": "k",
        "unscored_reason": None if pred is not None else "too long",
    }
    return {**row, **changes}


def cells(*rows: dict[str, Any]) -> pl.DataFrame:
    return score_cells(item_frame(rows).lazy()).collect()


def test_an_item_that_is_not_scored_is_neither_right_nor_wrong() -> None:
    found = cells(item(None, "arc-de", "1", 0), item(None, "arc-de", "2", 1), item(None, "arc-de", "3", None))
    assert found.select("n_items", "n_unscored", "score").rows() == [(3, 1, 0.5)]


def test_a_cell_without_scores_has_none() -> None:
    assert cells(item(None, "arc-de", "1", None))["score"].to_list() == [None]


def test_the_primary_metric_decides_which_prediction_counts() -> None:
    by_norm = item(None, "arc-de", "1", 1, pred_norm=0, primary_metric="acc_norm")
    by_acc = item(None, "mmlu-de", "1", 1, pred_norm=0)
    assert cells(by_norm, by_acc).select("target_task", "score").rows() == [("arc", 1.0), ("mmlu", 0.0)]


def test_mean_deltas_are_points_per_regime_against_the_same_target() -> None:
    rows = [item(None, target, "1", 1) for target in ("arc-de", "arc-en", "mmlu-de", "mmlu-en")]
    rows += [item("arc-de", "arc-de", "1", 0), item("arc-de", "arc-en", "1", 1)]
    rows += [item("arc-de", "mmlu-de", "1", 0), item("arc-de", "mmlu-en", "1", None)]
    rows += [item("arc-de", "other-en", "1", 0)]  # no baseline
    found = mean_deltas(cells(*rows)).select("regime", "n_pairs", "mean_delta_pp").rows()
    assert found == [("MT-ML", 1, 100.0), ("MT-CL", 1, 0.0), ("CT-ML", 1, 100.0)]


def report(**changes: Any) -> EvaluationReport:
    scores = cells(item(None, "arc-de", "1", 0), item("arc-de", "arc-de", "1", 1))
    baselines = scores.filter(pl.col("source") == "base")
    unscored = {"model": str, "target_task": str, "target_language": str, "item_id": str, "unscored_reason": str}
    values: dict[str, Any] = {
        "totals": Totals(2, 40, 600, 1000, 4.0, 9.5),
        "n_cells": 2,
        "n_finished": 2,
        "baselines": baselines.select("model", "target_task", "target_language", "n_items", "n_unscored", "score"),
        "deltas": mean_deltas(scores),
        "failures": (),
        "unscored": pl.DataFrame(schema={**unscored, "n_sources": pl.UInt32}),
        "counts": sum_counts([{"n_unscored": 2, "n_tied": 3, "n_not_prefix": 1000, "n_truncated": None}]),
    }
    return EvaluationReport(**{**values, **changes})


def rendered(found: EvaluationReport) -> str:
    console = Console(width=78, no_color=True, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(found)
    return captured.get()


def test_the_report_shows_baselines_deltas_and_what_sharing_saved() -> None:
    lines = [line.rstrip() for line in rendered(report()).splitlines()]
    assert "│ arc  │ 100.0 │" in lines
    assert "│ tiny  │ MT-ML  │     1 │       -100.00 │" in lines
    text = " ".join(lines)
    assert "2 of 2 cells are in the store; this run scored 2 (40 items) in 9.5 s, 10.0 items/s" in text
    assert "600 tokens computed, 1,000 without sharing (40% saved)" in text


def test_names_with_brackets_are_shown_as_they_are() -> None:
    named = {"model": pl.lit("x[/bold]-1B")}
    tables = {name: getattr(report(), name).with_columns(**named) for name in ("baselines", "deltas")}
    found = rendered(report(**tables))
    assert "Baseline of x[/bold]-1B, score in %" in " ".join(found.split())
    assert "│ x[/bold]-1B │ MT-ML" in found


@pytest.mark.parametrize(
    ("changes", "is_complete"),
    [
        ({}, True),
        ({"n_finished": 1}, False),
        ({"failures": (Failure(model="tiny", reason="gone"),)}, False),
    ],
)
def test_complete_means_all_that_was_asked_for(changes: dict[str, Any], is_complete: bool) -> None:
    assert report(**changes).is_complete is is_complete
    assert report(**changes).as_json()["is_complete"] is is_complete


def test_failures_and_unscored_items_are_listed_with_their_reasons() -> None:
    failures = (Failure(model="tiny", seed=17, source="arc-de", target="arc-en", reason="broken [weights]"),)
    unscored = pl.DataFrame([("tiny", "arc", "de", "q7", "too long", 3)], schema=report().unscored.schema, orient="row")
    text = rendered(report(failures=failures, unscored=unscored))
    assert "failed: tiny s17 arc-de on arc-en: broken [weights]" in text
    assert "not scored: tiny arc-de item 'q7' (3 source(s)): too long" in text


def test_a_long_list_of_failures_is_cut() -> None:
    failures = tuple(Failure(model=f"m{number}", reason="gone") for number in range(SHOWN_FAULTS + 5))
    text = rendered(report(failures=failures))
    assert text.count("failed:") == SHOWN_FAULTS
    assert "and 5 more; all with --json" in text
    assert len(report(failures=failures).as_json()["failures"]) == SHOWN_FAULTS + 5


def test_nothing_scored_saves_nothing() -> None:
    assert Totals().saved_share == 0.0


def test_every_count_is_shown_and_handed_on() -> None:
    text = " ".join(rendered(report()).split())
    assert (
        "in the cells that were asked for: 2 items not scored; 3 items with tied best choices; 0 items with a context that "
        "was cut; 1,000 choices whose first token reaches into the context; 0 choices encoded apart from their context"
    ) in text
    assert report().as_json()["counts"]["n_not_prefix"] == 1000
