import re

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.statistics.bootstrap import resample_deltas
from transfergrid.analysis.statistics.true_rates import draw_true_deltas
from transfergrid.analysis.tables.matrices import language_matrix_table
from transfergrid.analysis.tables.roles import role_table
from transfergrid.analysis.terminal.colours import diverging_step, diverging_style, strong_limit
from transfergrid.analysis.terminal.hierarchy import hierarchy_view, rank_bar
from transfergrid.analysis.terminal.matrix import MatrixView
from transfergrid.config.settings import AnalysisConfig

SETTINGS = AnalysisConfig(bootstrap_resamples=200)


def show(view: object, width: int = 80, *, colour: bool = False, no_colour: bool = False) -> str:
    system = "truecolor" if colour else None
    console = Console(width=width, color_system=system, force_terminal=colour, no_color=no_colour)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def matrix(deltas: np.ndarray, languages: tuple[str, ...] = ("de", "en", "fr")) -> MatrixView:
    return MatrixView(language_matrix_table(transfer_rows(("m",), cells(("hellaswag",), languages), deltas)))


def test_a_matrix_has_sources_as_rows_and_targets_as_columns() -> None:
    lines = show(matrix(np.array([[[9, 1, -2], [3, 9, 0], [0.25, -0.5, 9]]]))).splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["de", "en", "fr"],
        ["de", ".", "+1.0", "-2.0"],
        ["en", "+3.0", ".", "+0.0"],
        ["fr", "+0.2", "-0.5", "."],
    ]


def test_colour_is_only_on_a_terminal_that_wants_it_and_never_the_only_sign() -> None:
    view = matrix(np.array([[[9, 4, -4], [4, 9, 4], [4, 4, 9]]]))
    coloured = show(view, colour=True)
    assert len(re.findall(r"48;2;", coloured)) == 6
    assert "48;2;" not in show(view, colour=True, no_colour=True)
    assert "\x1b" not in show(view)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert plain == show(view)


def test_the_matrix_of_graded_transfer_shows_its_own_numbers_or_where_it_is_said_why_there_are_none() -> None:
    rows = transfer_rows(("m",), cells(("hellaswag",), ("de", "en")), np.full((1, 2, 2), 3.0))
    text = show(MatrixView(language_matrix_table(rows.with_columns(graded_pp=pl.lit(-1.5))), "graded"))
    assert "mean MT-CL graded transfer in pp" in text
    assert "-1.5" in text
    assert "+3.0" not in text
    none = show(MatrixView(language_matrix_table(rows), "graded"))
    assert "no graded transfer; 'grid analyze transfer --csv' says why" in none


def test_a_matrix_wider_than_the_terminal_is_cut_into_blocks() -> None:
    languages = ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh")
    view = matrix(np.ones((1, 11, 11)), languages)
    text = show(view, width=40)
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("+1.0") == show(view, width=100).count("+1.0") == 110


def test_nothing_to_show_is_said() -> None:
    rows = transfer_rows(MODELS, cells(languages=("de",)))
    assert "no MT-CL deltas" in show(MatrixView(language_matrix_table(rows)))
    roles = role_table(rows.clear(), resample_deltas(rows.clear(), (), SETTINGS), SETTINGS, np.zeros((0, 1)))
    assert "nothing to rank" in show(hierarchy_view(roles))


@pytest.mark.parametrize(
    ("value", "step"),
    [(0, 0), (0.09, 0), (0.11, 1), (0.5, 3), (1, 5), (7, 5), (-0.11, -1), (-1, -5)],
)
def test_steps_are_symmetric_and_saturate(value: float, step: int) -> None:
    assert diverging_step(value, 1.0) == step


def test_strong_colours_have_light_text_and_pale_ones_dark() -> None:
    assert diverging_style(1, 1).startswith("#ffffff on ")
    assert diverging_style(0.2, 1).startswith("#000000 on ")
    assert diverging_style(3, 0) == diverging_style(0, 1)


def test_one_outlier_does_not_decide_the_scale() -> None:
    assert strong_limit([1.0] * 19 + [-50.0]) == 1.0
    assert strong_limit([]) == 0.0


def test_the_hierarchy_shows_every_rank_with_its_interval() -> None:
    rows = transfer_rows(MODELS, cells(), np.random.default_rng(0).normal(size=(2, 6, 6)))
    roles = role_table(rows, resample_deltas(rows, (), SETTINGS), SETTINGS, draw_true_deltas(rows, (), SETTINGS))
    text = show(hierarchy_view(roles))
    assert max(map(len, text.splitlines())) <= 80
    block = text.split("languages as donors, MT-CL")[1].split("languages as recipients")[0]
    best = roles.filter(unit="language", role="donor", regime="MT-CL", models_by="all", rank=1).row(0, named=True)
    assert f"{best['name']}" in block
    assert f"{best['score_pp']:+.2f}" in block
    assert f"{best['rank_low']}-{best['rank_high']}" in block


def test_a_long_ranking_shows_both_ends() -> None:
    grid = cells(("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa"), ("de", "en", "fr", "hi", "zh"))
    rows = transfer_rows(MODELS, grid, np.random.default_rng(0).normal(size=(2, 20, 20)))
    roles = role_table(rows, resample_deltas(rows, (), SETTINGS), SETTINGS, draw_true_deltas(rows, (), SETTINGS))
    block = show(hierarchy_view(roles)).split("cells as donors")[1].split("cells as recipients")[0]
    assert "10 more" in block
    names = roles.filter(pl.col("unit") == "cell", role="donor", regime="MT-CL", models_by="all").sort("rank")["name"]
    assert all(name in block for name in [*names[:5], *names[-5:]])
    assert names[9] not in block


@pytest.mark.parametrize(
    ("ranks", "bar"),
    [((1, 1, 1), "o    "), ((2, 1, 3), "-o-  "), ((5, 2, 5), " ---o")],
)
def test_a_bar_covers_its_ranks(ranks: tuple[int, int, int], bar: str) -> None:
    assert rank_bar(*ranks, n_ranked=5) == bar


def test_a_bar_of_many_ranks_keeps_its_width() -> None:
    assert rank_bar(44, 1, 44, n_ranked=44) == "-" * 13 + "o"
