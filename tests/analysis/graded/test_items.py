"""Graded transfer from item rows, against its slow definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.analysis.graded import slow
from tests.analysis.synthetic import item_frame, item_row, write_run
from transfergrid.analysis.graded.items import NO_CHOICES, NO_TEMPERATURE, NOTHING_TOLD_APART
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.grid import Cell, UserError

NORM, PLAIN = Cell("arc_challenge", "de"), Cell("global_mmlu", "de")
N_ITEMS = 40


def rows_of(
    target: Cell, base: np.ndarray, adapters: dict[int, np.ndarray], gold: np.ndarray, chars: np.ndarray | None = None
) -> list[dict[str, object]]:
    """Item rows of a base and of one adapter by seed; log-likelihoods of shape [I, C], a NaN is no choice."""
    rows = []
    for seed, values in [(None, base), *adapters.items()]:
        for item, nats in enumerate(values):
            row = item_row("m", seed, None if seed is None else NORM, target, item, 0)
            kept = ~np.isnan(nats)
            row |= {"gold": int(gold[item]), "loglikelihoods_nats": list(nats[kept])}
            lengths = np.full(len(nats), 5) if chars is None else chars[item]
            rows.append(row | {"choice_chars": lengths[kept].tolist()})
    return rows


def read(folder: Path, *rows: list[dict[str, object]]) -> Transfer:
    return read_transfer(write_run(folder / "run", item_frame([row for part in rows for row in part])))


def test_graded_transfer_of_both_metrics_equals_the_slow_definition(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base, adapter, gold = slow.draw(generator, N_ITEMS, gain=0.5)
    chars = generator.integers(2, 30, base.shape)
    base[::3, 3] = adapter[::3, 3] = np.nan  # items of three choices
    gold = np.minimum(gold, 2)
    transfer = read(tmp_path, rows_of(PLAIN, base, {1: adapter}, gold), rows_of(NORM, base, {1: adapter}, gold, chars))
    mean_chars = np.nanmean(np.where(np.isnan(base), np.nan, chars), axis=1, keepdims=True)
    for target, scale in ((PLAIN, np.ones_like(base)), (NORM, mean_chars / chars)):
        z0, z1 = (np.where(np.isnan(each), -1e9, each * scale) for each in (base, adapter))
        t0 = slow.base_temperature(z0, gold)
        found = slow.match(z0 / t0, z1, gold)
        row = transfer.rows.filter(target_task=target.task).row(0, named=True)
        assert row["graded_pp"] == pytest.approx(100 * found.mean, abs=1e-6)
        assert row["graded_se_pp"] == pytest.approx(100 * found.se, rel=1e-3)
        assert row["temperature_ratio"] == pytest.approx(found.temperature / t0, rel=1e-6)
        assert row["graded_pp_low"] < row["graded_pp"] < row["graded_pp_high"]
        assert row["graded_p_method"] == "studentised sign flips"
        per_char = (adapter - base) / (5 if target is PLAIN else chars)
        is_gold = np.arange(base.shape[1]) == gold[:, None]
        assert row["register_nats_per_char"] == pytest.approx(per_char[is_gold].mean())
        others = np.nanmean(np.where(is_gold, np.nan, per_char), axis=1)
        assert row["others_nats_per_char"] == pytest.approx(others.mean())
        (block,) = [each for each in transfer.graded_items if each.task == target.task]
        assert 100 * block.differences.mean() == pytest.approx(row["graded_pp"], abs=1e-5)


def test_a_shift_of_all_choices_is_register_and_a_change_of_temperature_is_neither(tmp_path: Path) -> None:
    base, _, gold = slow.draw(np.random.default_rng(1), N_ITEMS)
    row = read(tmp_path, rows_of(PLAIN, base, {1: 1.25 * base - 10}, gold)).rows.row(0, named=True)
    assert row["graded_pp"] == pytest.approx(0, abs=1e-6)
    assert row["temperature_ratio"] == pytest.approx(1.25)
    assert row["register_nats_per_char"] == pytest.approx((0.25 * base[np.arange(N_ITEMS), gold] - 10).mean() / 5)


def test_several_seeds_are_averaged_and_items_missing_in_one_are_left_out_there(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    base, first, gold = slow.draw(generator, N_ITEMS)
    second = base + 0.5 * generator.normal(size=base.shape)
    rows = rows_of(PLAIN, base, {1: first, 2: second}, gold)[:-8]
    transfer = read(tmp_path, rows)
    t0 = slow.base_temperature(base, gold)
    wanted = [slow.match(base / t0, first, gold), slow.match(base[:-8] / t0, second[:-8], gold[:-8])]
    assert transfer.by_seed["graded_pp"].to_list() == pytest.approx([100 * each.mean for each in wanted], abs=1e-6)
    assert transfer.by_seed["graded_se_pp"].to_list() == pytest.approx([100 * each.se for each in wanted], rel=1e-3)
    row = transfer.rows.row(0, named=True)
    assert row["graded_pp"] == pytest.approx(transfer.by_seed["graded_pp"].mean())
    assert row["graded_p_method"] == "moderated t test, items and seeds crossed"
    assert row["graded_pp_low"] < row["graded_pp"] < row["graded_pp_high"]
    assert 0 < row["graded_p_below_0"] < 1


def test_what_has_no_graded_transfer_says_why_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(3), N_ITEMS)
    equal = np.zeros_like(base)
    cases = {"de": (equal, adapter), "en": (base, equal), "fr": (base, np.full_like(base, -np.inf)), "it": (base, base)}
    reasons = (NOTHING_TOLD_APART, NO_TEMPERATURE, NO_CHOICES, None)
    parts = [rows_of(Cell("global_mmlu", name), *sides[:1], {1: sides[1]}, gold) for name, sides in cases.items()]
    rows = read(tmp_path, *parts).rows.sort("target_language")
    assert rows["graded_reason"].to_list() == list(reasons)
    assert rows["graded_pp"].to_list() == [None, None, None, 0]
    assert rows["graded_p"].to_list() == [None, None, None, 1]
    assert rows["graded_pp_high"].to_list() == pytest.approx([None, None, None, 7.5])
    assert rows["delta_pp"].null_count() == 0
    assert not any(rows[name].is_nan().any() for name, dtype in rows.schema.items() if dtype == pl.Float64)


def test_a_choice_of_probability_0_counts_and_an_item_without_finite_scores_does_not(tmp_path: Path) -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(4), N_ITEMS)
    adapter[0, gold[0]] = -np.inf
    adapter[1] = -np.inf
    row = read(tmp_path, rows_of(PLAIN, base, {1: adapter}, gold)).rows.row(0, named=True)
    kept = np.arange(N_ITEMS) != 1
    t0 = slow.base_temperature(base, gold)
    z1 = np.where(np.isfinite(adapter), adapter, -1e9)
    assert row["graded_pp"] == pytest.approx(100 * slow.match(base[kept] / t0, z1[kept], gold[kept]).mean, abs=1e-6)


def test_other_numbers_of_choices_than_the_baselines_are_refused(tmp_path: Path) -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(5), 4)
    adapter[2, 3] = np.nan
    with pytest.raises(UserError, match=r"item 'q002' of 'global_mmlu-de' has 3 choices for an adapter and 4 for the"):
        read(tmp_path, rows_of(PLAIN, base, {1: adapter}, np.minimum(gold, 2)))
