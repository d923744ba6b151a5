"""Variants of the recipe against the main one, by plain loops over items."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from scipy import stats

from tests.analysis.synthetic import item_frame, item_row, item_rows, write_run
from transfergrid.analysis.analyze import write_tables
from transfergrid.analysis.report.page import write_report
from transfergrid.analysis.tables.build import build_tables
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.cli import main
from transfergrid.grid import Cell, Regime
from transfergrid.store.files import write_json
from transfergrid.store.folder import RunFolder

MODEL = "Llama-3.2-1B-Instruct"
LANGUAGES = ("de", "en", "fr")
GRID = [Cell("arc_challenge", language) for language in LANGUAGES]
DE, EN, _ = GRID
N_ITEMS = 30


def source_rows(
    name: str, kind: str, cells: list[Cell], generator: np.random.Generator, seed: int = 17
) -> pl.DataFrame:
    """Rows of a source of another kind; which answers are right is random but fixed."""
    wrong = (generator.random((len(GRID), N_ITEMS)) < 0.45).astype(int)
    rows = [
        item_row(MODEL, seed, None, target, item, int(wrong[place, item]))
        for place, target in enumerate(GRID)
        for item in range(N_ITEMS)
    ]
    return item_frame(rows).with_columns(
        source=pl.lit(name), source_kind=pl.lit(kind), source_cells=pl.lit(" ".join(cell.name for cell in cells))
    )


def write_training(run: RunFolder, name: str, seconds: float, n_weights: int, *, at_once: int = 1) -> None:
    folder = run.adapter(MODEL, 17, Cell.parse("arc_challenge-de")).with_name(name)
    folder.mkdir(parents=True)
    write_json(folder / "training.json", {"train_s": seconds, "resolved": {"adapters_at_once": at_once}})
    save_file({"a": np.zeros((n_weights // 2, 2), np.float32)}, folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def single() -> pl.DataFrame:
    return item_rows([MODEL], (17,), ("arc_challenge",), LANGUAGES, N_ITEMS)


@pytest.fixture(scope="module")
def rows(single: pl.DataFrame) -> pl.DataFrame:
    """Three cells and a mixture; the cells once more with rank 8, the mixture and one cell in full."""
    generator = np.random.default_rng(5)
    several = [
        source_rows("both", "mixture", [DE, EN], generator),
        *(source_rows(f"{cell.name}@r8", "variant", [cell], generator) for cell in GRID),
        source_rows("both@full", "variant", [DE, EN], generator),
        source_rows(f"{DE.name}@full", "variant", [DE], generator),
    ]
    return pl.concat([single, *several])


@pytest.fixture(scope="module")
def run(rows: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = write_run(tmp_path_factory.mktemp("varied") / "run", rows)
    for name, seconds in (("arc_challenge-de", 30.0), ("arc_challenge-en", 50.0)):
        write_training(run, name, seconds, 64, at_once=2)
        write_training(run, f"{name}@r8", seconds, 16)
    return run


def by_hand(rows: pl.DataFrame, name: str, target: Cell) -> np.ndarray:
    found = rows.filter((pl.col("source") == name) & (pl.col("target_language") == target.language))
    return found.sort("item_id")["value"].to_numpy()


@pytest.fixture(scope="module")
def tables(run: RunFolder) -> AnalysisTables:
    return build_tables(run)


def test_a_variant_is_compared_with_the_main_recipe_on_the_same_pairs_and_items(
    tables: AnalysisTables, rows: pl.DataFrame
) -> None:
    (row,) = tables.variants.filter(variant="r8", of="cell", regime=Regime.MT_CL.value).to_dicts()
    pairs = [(source, target) for source in GRID for target in GRID if source != target]
    differences = [by_hand(rows, f"{s.name}@r8", t) - by_hand(rows, s.name, t) for s, t in pairs]
    deltas, of_main = (
        [100 * (by_hand(rows, s.name + mark, t) - by_hand(rows, "base", t)).mean() for s, t in pairs]
        for mark in ("@r8", "")
    )
    assert (row["n_pairs"], row["n_items"], row["n_seeds"], row["reason"]) == (6, N_ITEMS, 1, None)
    assert row["delta_pp"] == pytest.approx(np.mean(deltas))
    assert row["main_delta_pp"] == pytest.approx(np.mean(of_main))
    assert row["minus_main_pp"] == pytest.approx(100 * np.mean(differences))
    assert row["win_rate"] == pytest.approx(np.mean(np.array(deltas) > 0))
    assert row["main_win_rate"] == pytest.approx(np.mean(np.array(of_main) > 0))
    assert row["harm_rate"] == pytest.approx(np.mean(np.array(deltas) <= -1))
    assert row["main_harm_rate"] == pytest.approx(np.mean(np.array(of_main) <= -1))
    by_item = 100 * np.mean(differences, axis=0)  # the targets have the same items: one cluster each
    half = stats.t.ppf(0.975, N_ITEMS - 1) * by_item.std(ddof=1) / np.sqrt(N_ITEMS)
    assert (row["minus_main_pp_low"], row["minus_main_pp_high"]) == pytest.approx(
        (by_item.mean() - half, by_item.mean() + half)
    )
    assert (row["n_weights"], row["main_n_weights"]) == (16, 64)
    assert (row["train_s"], row["main_train_s"]) == (40, 20)  # two in one pass share its seconds


def test_mixtures_have_rows_of_their_own_and_a_recipe_without_record_has_no_costs(tables: AnalysisTables) -> None:
    table = tables.variants
    of = table.select("variant", "of", "regime", "n_pairs").rows()
    assert of == [
        ("full", "cell", "all transfer", 2),
        ("full", "cell", "MT-ML", 1),
        ("full", "cell", "MT-CL", 2),
        ("full", "mixture", "all transfer", 1),
        ("full", "mixture", "MT-CL", 1),
        ("full", "mixture", "IN-MIX", 2),
        ("r8", "cell", "all transfer", 6),
        ("r8", "cell", "MT-ML", 3),
        ("r8", "cell", "MT-CL", 6),
    ]
    full = table.filter(variant="full", of="mixture")
    assert full["n_weights"].null_count() == full["train_s"].null_count() == 3


def test_what_is_said_of_the_main_recipe_stays_and_every_table_has_the_variant(
    run: RunFolder, tables: AnalysisTables, rows: pl.DataFrame, tmp_path: Path
) -> None:
    plain = write_run(tmp_path / "plain", rows.filter(~pl.col("source").str.contains("@")))
    before = build_tables(plain)
    for name, table in before.named():
        assert "variant" not in table.columns
        assert tables[name].filter(variant="main").drop("variant").equals(table), name
    assert set(tables.transfer["variant"]) == set(tables.transfer_by_seed["variant"]) == {"main", "r8", "full"}
    assert tables.variants["variant"].unique().sort().to_list() == ["full", "r8"]
    write_tables(before, plain.tables)
    assert not (plain.tables / "variants.csv").exists()
    for folder, n_rows in ((run, 9), (plain, 0)):
        shown = CliRunner().invoke(main, ["analyze", "variants", "--run", str(folder.root)])
        assert (shown.exit_code, f"variants: {n_rows} rows" in shown.output) == (0, True), shown.output


def test_the_report_has_a_section_of_variants(run: RunFolder) -> None:
    page = write_report(run).page.read_text(encoding="utf-8")
    section = page.split('id="variants"')[1].split("</section>")[0]
    shown = {
        tuple(cells[:3:2]): cells for row in section.split("<tr>") if (cells := re.findall(r"<t[hd].*?>(.*?)</t", row))
    }
    assert shown["r8", "MT-CL"][-2:] == ["16 / 64", "40 / 20"]
    assert shown["full, of mixtures", "IN-MIX"][-2] == "not known / not known"
    assert 'id="variants"' in page
    assert "What does another recipe change?" in page
