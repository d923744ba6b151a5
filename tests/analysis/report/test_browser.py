"""The page in a browser: it opens offline, explains its cells, filters, and fits a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.report.browser import CELLS, Watched, open_chromium
from tests.analysis.report.runs import (
    DE,
    EN,
    TOO_LONG,
    UNSCORED,
    data_of,
    matrix_of,
    page_of,
    write_holed_run,
    write_two_models,
)
from tests.analysis.synthetic import MODELS, item_rows, write_run
from transfergrid.config.text import PAPER_MODELS
from transfergrid.perf.analysis import write_table
from transfergrid.store.folder import RunFolder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


def write_page(path: Path, run: RunFolder) -> Path:
    path.write_text(page_of(run), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def holed(folder: Path) -> Path:
    return write_page(folder / "holed.html", write_holed_run(folder / "holed"))


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    return write_page(folder / "two.html", write_two_models(folder / "two"))


@pytest.fixture(scope="module")
def full(folder: Path) -> Path:
    run = RunFolder(folder / "full")
    write_table(run, len(PAPER_MODELS))
    return write_page(folder / "full.html", run)


def watch(browser: Any, path: Path, **options: Any) -> Watched:
    return Watched(browser, path.resolve().as_uri(), **options)


@pytest.fixture
def page(browser: Any, holed: Path) -> Iterator[Watched]:
    watched = watch(browser, holed)
    yield watched
    assert watched.faults == []
    watched.page.close()


def places(page: Path, source: Any, target: Any) -> tuple[int, int]:
    matrix = matrix_of(page.read_text(encoding="utf-8"))
    cells = (("sources", source), ("targets", target))
    row, column = ([each[:2] for each in matrix[side]].index([cell.task, cell.language]) for side, cell in cells)
    return row, column


@pytest.mark.parametrize("name", ["holed", "two", "full"])
def test_it_opens_from_disk_without_error_or_request(browser: Any, name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    watched = watch(browser, path)
    assert watched.faults == []
    assert watched.requests == [path.resolve().as_uri()]
    charts = data_of(path.read_text(encoding="utf-8"))["charts"]
    for chart in charts:
        assert watched.count(f"#{chart} svg .mark-group path") > 0, chart
    assert ("agreement-chart" in charts) == (name == "full")
    assert watched.count("#agreement.folded") == (name != "full")
    watched.page.close()


def test_hover_shows_source_target_delta_interval_n_and_significance(page: Watched, holed: Path) -> None:
    page.cell(*places(holed, DE, EN)).hover()
    assert page.tip() == {
        "trained on": "arc_challenge-de",
        "scored on": "arc_challenge-en",
        "regime": "MT-CL",
        "delta": "+100.00 pp",
        "interval": "none",
        "base, adapter": "0.000, 1.000",
        "questions": "32",
        "n": "1 seeds",
        "test": "significant (q = 0.000)",
    }


def test_hover_shows_the_interval_of_the_data(page: Watched, holed: Path) -> None:
    matrix = matrix_of(holed.read_text(encoding="utf-8"))
    row, column = places(holed, EN, DE)
    view, place = matrix["views"][0], row * len(matrix["targets"]) + column
    delta, half = view["delta_pp"][place], view["half_pp"][place]
    page.cell(row, column).hover()
    assert page.tip()["interval"] == f"95%: {delta - half:+.2f} to {delta + half:+.2f}".replace("-", "\u2212")
    assert page.tip()["test"] == f"not significant (q = {view['q_value'][place]:.3f})"


def test_a_cell_that_was_not_scored_is_hatched_and_says_why(page: Watched, holed: Path) -> None:
    assert page.count(".missing_cells_marks > path") == 1
    page.cell(*places(holed, *UNSCORED)).hover()
    assert page.tip()["delta"] == f"not scored: no item scored: {TOO_LONG}"
    hatches = "[...document.querySelectorAll('#matrix-chart .mark-symbol path')].filter((each) => each.__data__.datum.is_missing)"
    assert page.page.evaluate(f"{hatches}.map((each) => each.getAttribute('stroke'))") == ["#9aa1a9"]


def test_the_colour_scale_is_centred_on_no_change(page: Watched) -> None:
    cells = page.page.evaluate(
        "[...document.querySelectorAll('.cells_marks > path')].map((each) => [each.__data__.datum.delta_pp, each.getAttribute('fill')])"
    )
    fills = {delta: tuple(map(int, fill.removeprefix("rgb(").rstrip(")").split(","))) for delta, fill in cells}
    assert fills[0] == (244, 244, 241)
    for delta, (red, _, blue) in fills.items():
        assert delta == 0 or (blue > red) == (delta > 0), delta


def test_the_filters_keep_their_cells(page: Watched) -> None:
    # 2 tasks x 3 languages: 36 pairs
    for regime, n_cells in (
        ("MT-ML", 6),
        ("MT-CL", 12),
        ("CT-ML", 6),
        ("CT-CL", 12),
        ("all transfer", 30),
        ("all", 36),
    ):
        page.choose("matrix-chart", "Regime", regime)
        assert page.cells() == n_cells, regime
    page.choose("matrix-chart", "Trained task", "global_mmlu")
    assert page.cells() == 18
    page.choose("matrix-chart", "Scored language", "fr")
    page.choose("matrix-chart", "Scored task", "arc_challenge")
    page.choose("matrix-chart", "Trained language", "en")
    assert page.cells() == 1
    page.page.locator(CELLS).hover()
    assert page.tip()["trained on"] == "global_mmlu-en"
    assert page.tip()["scored on"] == "arc_challenge-fr"


def test_significant_only_leaves_significant_and_unscored_cells(page: Watched) -> None:
    page.choose("matrix-chart", "Show", "significant only")
    n_missing = page.count(".missing_cells_marks > path")
    assert n_missing == 1
    sure = page.page.evaluate(
        "[...document.querySelectorAll('.cells_marks > path')].map((each) => each.__data__.datum.significant)"
    )
    assert len(sure) >= 1
    assert set(sure) == {1}


def test_the_model_filter_shows_that_models_numbers(browser: Any, two: Path) -> None:
    watched = watch(browser, two)
    views = matrix_of(two.read_text(encoding="utf-8"))["views"]
    seen = []
    for view in views:
        watched.choose("matrix-chart", "Model", view["name"])
        watched.cell(0, 1).hover()
        watched.page.mouse.move(1, 1)
        watched.cell(0, 1).hover()
        assert watched.tip()["delta"] == f"{view['delta_pp'][1]:+.2f} pp".replace("-", "\u2212")
        seen.append(watched.tip())
    assert (seen[0]["n"], seen[1]["n"]) == ("2 models", "2 seeds")
    assert "of 2 models surely gain" in seen[0]["test"]
    assert watched.faults == []
    watched.page.close()


def test_arrow_keys_walk_through_the_matrix(page: Watched) -> None:
    page.page.locator("#matrix-chart").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.page.keyboard.press(key)
    assert "trained on arc_challenge-en · scored on arc_challenge-de · regime MT-CL" in page.text("#matrix-detail")
    page.page.keyboard.press("ArrowLeft")
    assert "scored on arc_challenge-de" in page.text("#matrix-detail")


def test_selects_change_their_charts(page: Watched) -> None:
    for chart, label, option in (
        ("regime-chart", "Measure", "truly harmed, % of pairs"),
        ("regime-chart", "Split by", "scored language"),
        ("role-chart-left", "Show", "cell, CT-CL"),
        ("variance-chart", "Regime", "CT-CL"),
        ("distance-chart", "Features", "inventory"),
    ):
        before = page.page.locator(f"#{chart} svg").inner_html()
        page.choose(chart, label, option)
        assert page.page.locator(f"#{chart} svg").inner_html() != before, label


@pytest.mark.parametrize("name", ["holed", "full"])
def test_the_page_never_scrolls_sideways(browser: Any, name: str, request: pytest.FixtureRequest) -> None:
    watched = watch(browser, request.getfixturevalue(name), width=480, scheme="dark")
    watched.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 480
    watched.page.close()


def test_the_full_study_fits_the_screen_and_a_reasonable_file(browser: Any, full: Path) -> None:
    assert full.stat().st_size < 3 * 2**20
    watched = watch(browser, full)
    assert watched.cells() == 44 * 44
    fits = (
        "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)(document.querySelector('.scroll:has(.matrix)'))"
    )
    assert watched.page.evaluate(fits)
    assert len(watched.page.pdf(format="A4")) > 10_000
    watched.page.close()


def test_the_colours_follow_the_scheme(page: Watched) -> None:
    background = "getComputedStyle(document.querySelector('#matrix-chart svg')).backgroundColor"
    assert page.page.evaluate(background) == "rgb(255, 255, 255)"
    page.page.emulate_media(color_scheme="dark")
    page.page.wait_for_selector("html[data-drawn=dark]")
    assert page.page.evaluate(background) == "rgb(20, 23, 26)"


@pytest.mark.parametrize(
    ("tasks", "languages"), [(("arc_challenge",), ("de",)), (("arc_challenge", "hellaswag"), ("de",))]
)
def test_the_smallest_grids_open_without_error(browser: Any, tmp_path: Path, tasks: Any, languages: Any) -> None:
    run = write_run(tmp_path / "run", item_rows(models=MODELS[:1], seeds=(17,), tasks=tasks, languages=languages))
    watched = watch(browser, write_page(tmp_path / "page.html", run))
    assert watched.faults == []
    assert watched.cells() == (len(tasks) * len(languages)) ** 2
    watched.page.close()


def test_names_from_a_run_are_text_in_charts_and_tooltips(browser: Any, tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)></script><b>&"
    run = write_holed_run(tmp_path / "run", model=bad, reason=bad)
    watched = watch(browser, write_page(tmp_path / "page.html", run))
    watched.page.locator(".missing_cells_marks > path").hover()
    assert bad in watched.tip()["delta"]
    assert bad in watched.page.locator("#matrix-chart select").first.inner_text()
    assert watched.count("img") == 0
    assert watched.faults == []
    watched.page.close()
