from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from tests.analysis.report.runs import FAST, UNSCORED, write_holed_run, write_two_models
from tests.analysis.synthetic import item_rows, write_run
from transfergrid.analysis.charts.theme import COLOURS
from transfergrid.analysis.report.figures import FIGURES, write_figures
from transfergrid.analysis.tables.build import build_tables
from transfergrid.analysis.tables.table import AnalysisTables

STARTS = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> AnalysisTables:
    return build_tables(write_two_models(tmp_path_factory.mktemp("runs") / "two"))


def texts(path: Path) -> list[str]:
    return [text for text in ElementTree.parse(path).getroot().itertext() if text.strip()]


def test_the_same_tables_give_the_same_files_in_every_form(tables: AnalysisTables, tmp_path: Path) -> None:
    for form, start in STARTS.items():
        first = write_figures(tables, FAST, tmp_path / "a", form=form)
        assert [path.name for path in first] == [f"{name}.{form}" for name in FIGURES]
        assert all(path.read_bytes().startswith(start) for path in first)
    again = write_figures(tables, FAST, tmp_path / "b", form="svg")
    assert [path.read_bytes() for path in again] == [(tmp_path / "a" / path.name).read_bytes() for path in again]


def test_an_svg_keeps_its_text_as_text(tables: AnalysisTables, tmp_path: Path) -> None:
    matrix, languages, tasks, regimes, harm = (
        set(texts(path)) for path in write_figures(tables, FAST, tmp_path, form="svg")
    )
    assert {"arc", "challenge", "de", "delta, pp"} <= matrix
    assert {"donor score, pp", "de"} <= languages
    assert {"recipient score, pp", "global_mmlu"} <= tasks
    assert {"all transfer", "MT-ML", "mean delta, pp"} <= regimes
    assert {"all transfer", "truly harmed, % of pairs"} <= harm


def test_what_was_not_scored_is_hatched(tmp_path: Path) -> None:
    tables = build_tables(write_holed_run(tmp_path / "run"))
    path, *_ = write_figures(tables, FAST, tmp_path, form="svg")
    hatched = [each for each in ElementTree.parse(path).iter() if each.get("stroke") == COLOURS["light"]["hatch"]]
    assert len(hatched) == 1
    n_pairs = tables.transfer.filter(pl.col("delta_pp").is_not_null()).height
    assert sum("pp" in (each.get("aria-label") or "") for each in ElementTree.parse(path).iter()) >= n_pairs
    assert UNSCORED[1].language == "fr"


def test_a_single_cell_and_a_run_without_scores_can_be_drawn(tables: AnalysisTables, tmp_path: Path) -> None:
    one = build_tables(write_run(tmp_path / "run", item_rows(tasks=("arc_challenge",), languages=("de",))))
    empty = {**tables.frames, "transfer": tables.transfer.with_columns(delta_pp=pl.lit(None, dtype=pl.Float64))}
    for each in (one, AnalysisTables(empty)):
        assert len(write_figures(each, FAST, tmp_path, form="svg")) == len(FIGURES)
