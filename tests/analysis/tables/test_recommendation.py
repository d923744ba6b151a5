"""Recommendations from item rows: luck of the baseline that all sources share, and pairs without a change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from tests.analysis.synthetic import cells, transfer_rows
from tests.analysis.terminal.test_recommendation import GRID, TARGET
from transfergrid.analysis.records import PAIR, ItemBlock, Transfer
from transfergrid.analysis.tables.recommendation import NOTHING_SHARED
from transfergrid.analysis.terminal.recommendation import recommend_from
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Cell


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
