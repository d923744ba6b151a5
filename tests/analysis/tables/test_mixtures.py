"""Mixtures and merges against their parts, by plain loops over items."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tests.analysis.synthetic import item_frame, item_row, item_rows, write_run
from transfergrid.analysis.mixing.contrasts import ALL_EQUAL, NO_MEMBER, OTHER_SEEDS
from transfergrid.analysis.records import EVERY_KEY
from transfergrid.analysis.report.page import write_report
from transfergrid.analysis.tables.build import build_tables
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.grid import Cell
from transfergrid.store.folder import RunFolder

MODEL = "Llama-3.2-1B-Instruct"
LANGUAGES = ("de", "en", "fr")
GRID = [Cell("arc_challenge", language) for language in LANGUAGES]
DE, EN, FR = GRID
N_ITEMS = 30
KEY = list(EVERY_KEY)


def other_rows(name: str, kind: str, cells: list[Cell], right: np.ndarray, seed: int) -> pl.DataFrame:
    """Rows of one source of several cells; ``right`` has shape [targets, items]."""
    rows = [
        item_row(MODEL, seed, None, target, item, int(not right[place, item]))
        for place, target in enumerate(GRID)
        for item in range(right.shape[1])
    ]
    return item_frame(rows).with_columns(
        source=pl.lit(name), source_kind=pl.lit(kind), source_cells=pl.lit(" ".join(cell.name for cell in cells))
    )


def make_run(root: Path, seeds: tuple[int, ...] = (17,), **changes: pl.DataFrame) -> tuple[RunFolder, pl.DataFrame]:
    """Single cells at random, a mixture and a merge of de and en at random, a merge that is the mixture."""
    generator = np.random.default_rng(5)
    frames = [item_rows([MODEL], seeds, ("arc_challenge",), LANGUAGES, N_ITEMS)]
    for seed in seeds:
        both = generator.random((3, N_ITEMS)) < 0.6
        frames += [
            other_rows("both", "mixture", [EN, DE], both, seed),
            other_rows("copy", "merge", [DE, EN], both, seed),
            other_rows("mean", "merge", [DE, EN], generator.random((3, N_ITEMS)) < 0.5, seed),
            other_rows("alone", "merge", [DE, FR], generator.random((3, N_ITEMS)) < 0.5, seed),
        ]
    rows = pl.concat([*frames, *changes.values()])
    return write_run(root, rows), rows


def row(table: pl.DataFrame, source: str, target: Cell | None) -> dict:
    language = pl.col("target_language").is_null() if target is None else pl.col("target_language") == target.language
    return table.filter((pl.col("source") == source) & language).row(0, named=True)


def by_hand(rows: pl.DataFrame, source: str, others: dict[str, float], target: Cell) -> np.ndarray:
    """Return the difference of every item, mean over seeds, shape [items], in pp."""

    def right(name: str) -> np.ndarray:
        found = rows.filter((pl.col("source") == name) & (pl.col("target_language") == target.language))
        return found.group_by("item_id").agg(pl.col("value").mean()).sort("item_id")["value"].to_numpy()

    base = right("base")
    change = right(source) - base
    return 100 * (change + sum(weight * (right(name) - base) for name, weight in others.items()))


def interval(differences: np.ndarray) -> tuple[float, float]:
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return differences.mean() - half, differences.mean() + half


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnalysisTables, pl.DataFrame]:
    run, rows = make_run(tmp_path_factory.mktemp("run") / "run")
    record = run.adapters / MODEL / "s17" / "mean" / "training.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"key": {"merge": {"method": "ties"}}}), encoding="utf-8")
    return build_tables(run), rows


@pytest.mark.parametrize("target", GRID)
def test_a_mixture_is_compared_with_its_parts_item_by_item(
    made: tuple[AnalysisTables, pl.DataFrame], target: Cell
) -> None:
    tables, rows = made
    found = row(tables.mixtures, "both", target)
    parts = {cell.name: row(tables.transfer, cell.name, target)["delta_pp"] for cell in (DE, EN)}
    best = max(parts, key=lambda name: parts[name])
    assert (found["regime"], found["cells"]) == ("IN-MIX" if target != FR else "MT-CL", f"{DE} {EN}")
    assert (found["best_part"], found["best_part_pp"]) == (best, parts[best])
    assert found["parts_mean_pp"] == pytest.approx(sum(parts.values()) / 2)
    for name, weights in (
        ("mean", dict.fromkeys(parts, -0.5)),
        ("sum", dict.fromkeys(parts, -1.0)),
        ("best", {best: -1.0}),
    ):
        expected = by_hand(rows, "both", weights, target)
        low, high = interval(expected)
        assert found[f"minus_{name}_pp"] == pytest.approx(expected.mean())
        assert (found[f"minus_{name}_pp_low"], found[f"minus_{name}_pp_high"]) == pytest.approx((low, high))
    assert found["minus_mean_pp"] == pytest.approx(found["delta_pp"] - found["parts_mean_pp"])
    assert (found["n_pairs"], found["n_items"], found["n_seeds"], found["reason"]) == (1, N_ITEMS, 1, None)


def test_means_count_an_item_once_however_many_targets_have_it(made: tuple[AnalysisTables, pl.DataFrame]) -> None:
    tables, rows = made
    found = tables.mixtures.filter((pl.col("source") == "all mixtures") & (pl.col("regime") == "IN-MIX")).row(
        0, named=True
    )
    weights = {DE.name: -0.5, EN.name: -0.5}
    together = (by_hand(rows, "both", weights, DE) + by_hand(rows, "both", weights, EN)) / 2
    assert (found["n_pairs"], found["n_items"], found["target_task"], found["cells"]) == (2, N_ITEMS, None, None)
    assert found["minus_mean_pp"] == pytest.approx(together.mean())
    assert (found["minus_mean_pp_low"], found["minus_mean_pp_high"]) == pytest.approx(interval(together))
    assert found["best_part"] is None


def test_a_merge_is_compared_with_the_mixture_of_the_same_cells(made: tuple[AnalysisTables, pl.DataFrame]) -> None:
    tables, rows = made
    found, copy, alone = (row(tables.merges, name, FR) for name in ("mean", "copy", "alone"))
    assert (found["together"], found["method"], copy["method"]) == ("both", "ties", None)
    expected = by_hand(rows, "mean", {"both": -1.0}, FR)
    assert (found["minus_together_pp_low"], found["minus_together_pp_high"]) == pytest.approx(interval(expected))
    assert (copy["minus_together_pp"], copy["minus_together_pp_low"]) == (0, None)
    assert (alone["together"], alone["minus_together_pp"], alone["regime"]) == (None, None, "IN-MIX")
    assert alone["minus_mean_pp"] is not None
    pooled = tables.merges.filter((pl.col("source") == "all merges") & (pl.col("method") == "ties"))
    assert sorted(pooled["regime"]) == ["IN-MIX", "MT-CL"]


def test_the_report_has_a_section_only_where_there_are_such_sources(
    made: tuple[AnalysisTables, pl.DataFrame], tmp_path: Path
) -> None:
    tables, rows = made
    run, _ = make_run(tmp_path / "run")
    section = write_report(run).page.read_text(encoding="utf-8").split('id="several"')[1].split("</section>")[0]
    shown = set(re.findall('<th scope="row">(.*?)</th>', section))
    assert shown == {"merged, method not recorded", "trained together"}
    first = tables.mixtures.row(0, named=True)
    assert first["source"] == "all mixtures"
    assert f"<td>{first['minus_mean_pp']:+.2f}".replace("-", "\N{MINUS SIGN}") in section
    plain = write_run(tmp_path / "plain", rows.filter(pl.col("source_kind").is_in(["base", "cell"])))
    page = write_report(plain).page.read_text(encoding="utf-8")
    assert 'id="several"' not in page
    assert 'id="variants"' not in page


def test_single_source_tables_do_not_know_of_mixtures(
    made: tuple[AnalysisTables, pl.DataFrame], tmp_path: Path
) -> None:
    tables, rows = made
    alone = build_tables(write_run(tmp_path / "run", rows.filter(pl.col("source_kind").is_in(["base", "cell"]))))
    for name, table in alone.named():
        mine = tables[name]
        if name in ("mixtures", "merges"):
            assert table.is_empty()
        elif name in ("transfer", "transfer_by_seed"):
            assert (
                mine.filter(pl.col("source_kind") == "cell")
                .drop("q_value", "mcnemar_q", strict=False)
                .equals(table.drop("q_value", "mcnemar_q", strict=False))
            )
        else:
            assert mine.equals(table), name


def test_seeds_widen_an_interval_and_other_seeds_are_named(tmp_path: Path) -> None:
    run, rows = make_run(tmp_path / "two", (17, 42))
    found = row(build_tables(run).mixtures, "both", DE)
    weights = {DE.name: -0.5, EN.name: -0.5}
    expected = by_hand(rows, "both", weights, DE)
    seeds = [
        by_hand(rows.filter(pl.col("seed").is_null() | (pl.col("seed") == seed)), "both", weights, DE).mean()
        for seed in (17, 42)
    ]
    items, between = expected.var(ddof=1) / N_ITEMS, np.var(seeds, ddof=1) / 2
    df = (items + between) ** 2 / (items**2 / (N_ITEMS - 1) + between**2)
    half = stats.t.ppf(0.975, df) * np.sqrt(items + between)
    assert found["n_seeds"] == 2
    assert found["minus_mean_pp"] == pytest.approx(expected.mean())
    assert found["minus_mean_pp_high"] == pytest.approx(expected.mean() + half)
    gone = rows.filter(~((pl.col("source") == DE.name) & (pl.col("seed") == 42)))
    found = row(build_tables(write_run(tmp_path / "gone", gone)).mixtures, "both", DE)
    assert (found["minus_mean_pp"], found["reason"], found["n_pairs"]) == (None, OTHER_SEEDS, 0)


def test_a_part_that_was_not_scored_and_items_that_tell_nothing_apart_have_a_reason(tmp_path: Path) -> None:
    _, rows = make_run(tmp_path / "whole")
    without = rows.filter(pl.col("source") != EN.name)
    found = row(build_tables(write_run(tmp_path / "without", without)).mixtures, "both", FR)
    assert (found["minus_mean_pp"], found["parts_mean_pp"], found["reason"]) == (None, None, NO_MEMBER)
    same = other_rows("same", "mixture", [DE], np.ones((3, N_ITEMS), dtype=bool), 17).drop("value", "pred")
    answers = rows.filter(pl.col("source") == DE.name).select("target_language", "item_id", "value", "pred")
    same = same.join(answers, on=["target_language", "item_id"]).select(rows.columns)
    found = row(build_tables(write_run(tmp_path / "same", pl.concat([rows, same]))).mixtures, "same", FR)
    assert (found["minus_mean_pp"], found["minus_mean_pp_low"], found["reason"]) == (0, None, ALL_EQUAL)


@pytest.mark.parametrize("chance", [0.1, 0.4])
def test_intervals_hold_the_truth_as_often_as_they_say(chance: float) -> None:
    """A mixture and its two parts answer by chance alone: the true difference is 0 (1,000 draws of 40 items)."""
    from transfergrid.analysis.mixing.contrasts import compare
    from transfergrid.analysis.records import ItemBlock

    generator = np.random.default_rng(11)
    targets = [f"t{number}" for number in range(1000)]
    names = ["mix", "one", "two"]
    keys = pl.DataFrame(list(product(["m"], names, ["task"], targets)), schema=KEY, orient="row")
    differences = ((generator.random((3000, 40)) < chance).astype(np.float32)) - 0.2
    block = ItemBlock(
        "task", keys, tuple(f"q{item:02d}" for item in range(40)), differences, np.ones((3000, 40), dtype=bool)
    )
    weights = {"mix": 1.0, "one": -0.5, "two": -0.5}
    contrasts = pl.DataFrame({"target_language": targets, "contrast": range(1000)})
    members = keys.join(contrasts, on="target_language").with_columns(weight=pl.col("source").replace_strict(weights))
    by_seed = keys.with_columns(seed=pl.lit(17), delta_pp=pl.lit(0.0))
    groups = pl.DataFrame({"group": range(1000), "contrast": range(1000)})
    found = compare(members.select("contrast", *KEY, "weight"), groups, [block], by_seed, 0.95)
    held = ((found["low_pp"] <= 0) & (found["high_pp"] >= 0)).mean()
    assert 0.93 <= held <= 0.97
