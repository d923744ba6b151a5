from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from tests.analysis.report.runs import FAST, UNSCORED, write_holed_run, write_two_models
from tests.analysis.synthetic import cells, item_rows, write_run
from transfergrid.analysis.report.figures import (
    GAIN,
    LOSS,
    MIDDLE,
    draw_matrix,
    draw_regimes,
    draw_roles,
    mean_matrix,
    write_figures,
)
from transfergrid.analysis.tables.build import AnalysisTables, build_tables

STYLE = Path(__file__).parents[3] / "analysis" / "report" / "style.css"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> AnalysisTables:
    return build_tables(write_two_models(tmp_path_factory.mktemp("runs") / "two"))


def test_the_same_tables_give_the_same_files(tables: AnalysisTables, tmp_path: Path) -> None:
    for form in ("svg", "png"):
        first = write_figures(tables, FAST, tmp_path / "a", form=form)
        second = write_figures(tables, FAST, tmp_path / "b", form=form)
        assert [path.name for path in first] == [f"{name}.{form}" for name in ("matrix", "roles", "regimes")]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_an_svg_keeps_its_text_as_text(tables: AnalysisTables, tmp_path: Path) -> None:
    matrix, roles, regimes = (
        "".join(ElementTree.parse(path).getroot().itertext())
        for path in write_figures(tables, FAST, tmp_path, form="svg")
    )
    assert all(word in matrix for word in ("trained on", "scored on", "arc_challenge", "mean delta, pp"))
    assert all(word in roles for word in ("donor score, pp", "de", "global_mmlu", "95% intervals"))
    assert all(word in regimes for word in ("all transfer", "MT-ML", "harmed"))


def test_the_matrix_holds_means_and_leaves_holes_open(tmp_path: Path) -> None:
    transfer = build_tables(write_holed_run(tmp_path)).transfer
    sources, targets, values = mean_matrix(transfer)
    source, target = ((cell.task, cell.language) for cell in UNSCORED)
    assert np.argwhere(np.isnan(values)).tolist() == [[sources.index(source), targets.index(target)]]
    axes = draw_matrix(transfer).axes[0]
    (image,) = axes.images
    assert image.get_array().mask.sum() == 1
    (hole,) = axes.patches
    assert (hole.get_hatch(), hole.get_x() + 0.5, hole.get_y() + 0.5) == (
        "//////",
        targets.index(target),
        sources.index(source),
    )
    assert image.norm.vmin == -image.norm.vmax


def test_a_single_cell_can_be_drawn(tmp_path: Path) -> None:
    tables = build_tables(write_run(tmp_path, item_rows(tasks=("arc_challenge",), languages=("de",))))
    assert len(draw_matrix(tables.transfer).axes[0].get_xticks()) == len(cells(("arc_challenge",), ("de",)))
    texts = [text.get_text() for axes in draw_roles(tables.roles, FAST).axes for text in axes.texts]
    assert texts == ["no pairs", "no pairs"]
    assert [label.get_text() for label in draw_regimes(tables.regimes, FAST).axes[0].get_yticklabels()] == ["MT-ML"]


def test_nothing_scored_is_all_hatch_and_no_colour(tables: AnalysisTables) -> None:
    empty = tables.transfer.with_columns(delta_pp=pl.lit(None, dtype=pl.Float64))
    assert draw_matrix(empty).axes[0].images[0].get_array().mask.all()


def test_page_and_figures_share_their_colours() -> None:
    style = STYLE.read_text(encoding="utf-8")
    assert f"--gain: {GAIN}; --loss: {LOSS}; --middle: {MIDDLE};" in style
