"""Rows of a store that changes while it is looked at, and of stores that no sweep writes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from starlette.testclient import TestClient

from tests.view.pages import MODEL, TOKEN, write_viewed_run
from transfergrid.grid import BASE, BASELINE_NAME, Source, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import Origin, ScoreStore
from transfergrid.store.scores import score_parts
from transfergrid.view import rows
from transfergrid.view.app import PAGES, link, make_app
from transfergrid.view.pages import View

PAIR = {"model": MODEL, "source": "arc_challenge-de", "seed": "17", "target": "arc_challenge-en"}
OF_PAIR = (pl.col("source") == PAIR["source"]) & (pl.col("seed") == 17) & (pl.col("target_language") == "en")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return write_viewed_run(tmp_path / "run")


def split_by_source(run: RunFolder) -> dict[tuple[str, str, int | None], Path]:
    """Give every source a part of its own, with a footer, as a sweep does."""
    (whole,) = score_parts(run)
    parts = pl.read_parquet(whole).partition_by("model", "source", "seed", as_dict=True)
    whole.unlink()
    store = ScoreStore(run.scores)
    return {
        (model, name, seed): store.write(Origin(model, Source.parse(name, seed)), {}, [], part).path
        for (model, name, seed), part in parts.items()
    }


def test_a_base_that_was_scored_again_makes_all_deltas_new(run: RunFolder) -> None:
    parts = split_by_source(run)
    view = View(run, None)
    before = view.page("matrix", {"model": MODEL}).table
    base = parts[MODEL, BASELINE_NAME, None]
    scored = pl.read_parquet(base).with_columns(value=pl.lit(0.0))
    base.unlink()
    ScoreStore(run.scores).write(Origin(MODEL, BASE), {}, [], scored)
    after = view.page("matrix", {"model": MODEL}).table
    assert after["n_lost"].sum() == 0 < before["n_lost"].sum()
    assert after["base_score"].max() == 0
    assert set(view.page("overview", {}).table.filter(model=MODEL)["base_score"]) == {0.0}


def test_a_part_that_is_moved_away_while_a_page_is_made_is_read_where_it_is_now(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = split_by_source(run)
    view = View(run, None)
    expected = view.page("pair", PAIR).table
    old = parts[MODEL, PAIR["source"], 17]
    moved = old.with_name("moved.parquet")
    scan = rows.scan_scores

    def move_then_scan(paths: list[Path]) -> pl.LazyFrame:
        if old in paths and old.exists():
            old.rename(moved)
        return scan(paths)

    monkeypatch.setattr(rows, "scan_scores", move_then_scan)
    assert view.page("pair", PAIR).table.equals(expected)
    assert moved.exists()
    moved.unlink()
    with pytest.raises(UserError, match="has no seed 17"):
        view.page("pair", PAIR)


def test_a_part_damaged_behind_its_footer_is_named(run: RunFolder) -> None:
    part = split_by_source(run)[MODEL, PAIR["source"], 17]
    content = bytearray(part.read_bytes())
    data_end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # the footer's length stands before "PAR1"
    content[4:data_end] = bytes(data_end - 4)
    part.write_bytes(content)
    with pytest.raises(UserError, match=rf"{part.name}' cannot be read as Parquet"):
        View(run, None).page("pair", PAIR)


@pytest.mark.parametrize("page", ["pair", "matrix", "source"])
@pytest.mark.parametrize("fault", ["has an item twice", "has other golds than the base"])
def test_what_the_analysis_refuses_is_refused(run: RunFolder, page: str, fault: str) -> None:
    (whole,) = score_parts(run)
    table = pl.read_parquet(whole)
    if fault == "has an item twice":
        table = pl.concat([table, table.filter(OF_PAIR).head(1)])
    else:
        table = table.with_columns(gold=pl.when(OF_PAIR).then(pl.lit(2, dtype=pl.Int16)).otherwise("gold"))
    table.write_parquet(whole)
    with pytest.raises(UserError, match=f"the store {fault} under 'arc_challenge-de'"):
        View(run, None).page(page, PAIR)


def test_values_between_right_and_wrong_have_no_mcnemar_test(run: RunFolder) -> None:
    (whole,) = score_parts(run)
    pl.read_parquet(whole).with_columns(value=pl.col("value") / 2).write_parquet(whole)
    view = View(run, None)
    assert not view.page("pair", PAIR).values["has_test"]
    assert set(view.page("compare", {**PAIR, "other": "arc_challenge-en"}).table["mcnemar_p"]) == {None}


def test_search_finds_ids_in_any_case(run: RunFolder) -> None:
    (whole,) = score_parts(run)
    pl.read_parquet(whole).with_columns(item_id="Mercury_" + pl.col("item_id")).write_parquet(whole)
    assert View(run, None).page("pair", {**PAIR, "q": "mercury_Q003"}).table["item_id"].to_list() == ["Mercury_q003"]


def test_a_source_is_compared_with_one_that_has_other_seeds(run: RunFolder) -> None:
    (whole,) = score_parts(run)
    other = (pl.col("source") == "arc_challenge-en") & (pl.col("seed") == 17)
    pl.read_parquet(whole).filter(~other.fill_null(False)).write_parquet(whole)
    assert View(run, None).page("compare", {**PAIR, "other": "arc_challenge-en"}).values["other"].seed == 42


@pytest.mark.parametrize(
    "kept",
    [
        pl.col("source") == "base",
        pl.col("source") != "base",
        (pl.col("source") == "base") | (OF_PAIR & (pl.col("target_task") == "arc_challenge")),
        pl.col("source") == "nothing",
    ],
)
def test_every_page_of_an_odd_store_shows_it_or_says_what_is_missing(run: RunFolder, kept: pl.Expr) -> None:
    (whole,) = score_parts(run)
    pl.read_parquet(whole).filter(kept.fill_null(False)).write_parquet(whole)
    with TestClient(make_app(View(run, None), token=TOKEN), base_url="http://127.0.0.1:8321") as client:
        client.get(f"/?token={TOKEN}")
        asked = {**PAIR, "task": "arc_challenge", "item": "q000", "other": "arc_challenge-en"}
        for page in PAGES:
            for more in ({}, {"format": "csv"}, {"page": "9" * 5000}, {"seed": "--5"}, {"q": "%00((["}):
                answer = client.get(link("" if page == "overview" else page, **{**asked, **more}))
                assert answer.status_code in (200, 404), (page, more)
