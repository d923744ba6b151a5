"""The page in a browser: it opens offline, explains its cells, filters, and fits a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.report.browser import Watched, open_chromium
from tests.analysis.report.runs import DE, EN, TOO_LONG, UNSCORED, data_of, page_of, write_holed_run, write_two_models
from tests.analysis.synthetic import MODELS, item_rows, write_run
from transfergrid.config.text import PAPER_MODELS
from transfergrid.grid import LANGUAGES
from transfergrid.perf.analysis import write_table
from transfergrid.store.folder import RunFolder

CELLS = "#matrix-table td[data-row]"


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


@pytest.fixture
def page(browser: Any, holed: Path) -> Iterator[Watched]:
    watched = Watched(browser, holed)
    yield watched
    assert watched.faults == []
    watched.page.close()


def places(page: Path, source: Any, target: Any) -> tuple[int, int]:
    matrix = data_of(page.read_text(encoding="utf-8"))["matrix"]
    cells = (("sources", source), ("targets", target))
    row, column = (matrix[side].index([cell.task, cell.language]) for side, cell in cells)
    return row, column


@pytest.mark.parametrize("name", ["holed", "two", "full"])
def test_it_opens_from_disk_without_error_or_request(browser: Any, name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    watched = Watched(browser, path)
    assert watched.faults == []
    assert watched.requests == [path.resolve().as_uri()]
    n_views = len(data_of(path.read_text(encoding="utf-8"))["matrix"]["views"])
    assert watched.count("#f-model option") == n_views
    for chart in ("regime-chart", "role-chart-left", "role-chart-right", "variance-chart", "distance-chart"):
        assert watched.count(f"#{chart} svg [data-tip]") > 0, chart


def test_hover_shows_source_target_delta_interval_n_and_significance(page: Watched, holed: Path) -> None:
    page.cell(*places(holed, DE, EN)).hover()
    text = page.text("#tip").replace("\u00a0", " ")
    assert text.splitlines() == [
        f"trained on arc_challenge-de, scored on arc_challenge-en (MT-CL), {MODELS[0]}",
        "delta +100.00 pp, no interval: no standard error, or no answer changed",
        "base score 0.000, adapter 1.000",
        "n: 32 questions, 1 seed",
        "significant (q = 0.000)",
    ]
    assert page.text("#matrix-detail").replace("\u00a0", " ") == text


def test_hover_shows_the_interval_of_the_data(page: Watched, holed: Path) -> None:
    matrix = data_of(holed.read_text(encoding="utf-8"))["matrix"]
    row, column = places(holed, EN, DE)
    view, place = matrix["views"][0], row * len(matrix["targets"]) + column
    delta, half = view["delta_pp"][place], view["half_pp"][place]
    page.cell(row, column).hover()
    expected = f"95% interval {delta - half:+.2f} to {delta + half:+.2f}".replace("-", "\u2212")
    assert expected in page.text("#tip")
    assert f"not significant (q = {view['q_value'][place]:.3f})" in page.text("#tip")


def test_a_cell_that_was_not_scored_is_hatched_and_says_why(page: Watched, holed: Path) -> None:
    cell = page.cell(*places(holed, *UNSCORED))
    assert "missing" in cell.get_attribute("class")
    assert "repeating-linear-gradient" in cell.evaluate("each => getComputedStyle(each).backgroundImage")
    assert cell.inner_text() == ""
    cell.hover()
    assert f"not scored: no item scored: {TOO_LONG}" in page.text("#tip")
    assert page.count("#matrix-table td.missing") == 1
    assert "1 not scored" in page.text("#matrix-caption")


def test_gain_loss_and_no_change_have_different_colours(page: Watched) -> None:
    colours = {
        kind: page.page.locator(f"#matrix-table td.{kind}").first.evaluate(
            "each => getComputedStyle(each).backgroundColor"
        )
        for kind in ("gain", "loss", "zero")
        if page.count(f"#matrix-table td.{kind}")
    }
    assert {"gain", "loss"} <= colours.keys()
    assert len(set(colours.values())) == len(colours)


def test_the_regime_filter_keeps_that_regimes_cells(page: Watched) -> None:
    # 2 tasks x 3 languages: 36 pairs
    for regime, n_cells in (("MT-ML", 6), ("MT-CL", 12), ("CT-ML", 6), ("CT-CL", 12), ("transfer", 30), ("", 36)):
        page.page.select_option("#f-regime", regime)
        assert page.count(CELLS) == n_cells, regime
        assert f"{n_cells} cells" in page.text("#matrix-caption")


def test_task_and_language_filters_keep_rows_and_columns(page: Watched) -> None:
    def rows() -> list[str]:
        return [str(each) for each in page.page.locator("#matrix-table tbody th.leaf").all_inner_texts()]

    def columns() -> list[str]:
        return [str(each) for each in page.page.locator("#matrix-table thead th.leaf").all_inner_texts()]

    languages = ["de", "en", "fr"]
    page.page.select_option("#f-source-task", "global_mmlu")
    assert (rows(), columns()) == (languages, languages * 2)
    assert page.page.locator("#matrix-table tbody th.group").all_inner_texts() == ["global mmlu"]
    page.page.select_option("#f-target-language", "fr")
    assert (rows(), columns()) == (languages, ["fr", "fr"])
    page.page.select_option("#f-target-task", "arc_challenge")
    page.page.select_option("#f-source-language", "en")
    assert (rows(), columns(), page.count(CELLS)) == (["en"], ["fr"], 1)
    page.page.locator("#matrix-table td[data-row]").hover()
    assert "trained on global_mmlu-en, scored on arc_challenge-fr" in page.text("#tip")
    page.page.click("button[type=reset]")
    page.settle()
    assert page.count(CELLS) == 36


def test_order_by_language_groups_the_tasks_of_a_language(page: Watched) -> None:
    page.page.select_option("#f-order", "language")
    assert page.page.locator("#matrix-table tbody th.group").all_inner_texts() == ["de", "en", "fr"]


def test_significant_only_leaves_significant_and_unscored_cells(page: Watched) -> None:
    n_significant = page.count("#matrix-table td.significant")
    assert n_significant >= 1
    page.page.check("#f-significant")
    assert page.count(CELLS) == n_significant + 1
    assert page.count("#matrix-table td.missing") == 1


def test_the_model_filter_shows_that_models_numbers(browser: Any, two: Path) -> None:
    watched = Watched(browser, two)
    views = data_of(two.read_text(encoding="utf-8"))["matrix"]["views"]
    seen = []
    for number, view in enumerate(views):
        watched.page.select_option("#f-model", str(number))
        watched.cell(0, 1).hover()
        text = watched.text("#tip")
        assert f"{abs(view['delta_pp'][1]):.2f}" in text
        assert view["name"] in text
        seen.append(text)
    assert "2 models" in seen[0]
    assert "significant alone in" in seen[0]
    assert "2 seeds" in seen[1]
    assert watched.faults == []


def test_arrow_keys_walk_through_the_matrix_and_escape_hides_the_tip(page: Watched) -> None:
    page.page.locator('#matrix-table td[tabindex="0"]').focus()
    assert page.count('#matrix-table td[tabindex="0"]') == 1
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowDown")
    focused = page.page.evaluate("[document.activeElement.dataset.row, document.activeElement.dataset.column]")
    assert focused == ["1", "1"]
    assert "trained on arc_challenge-en, scored on arc_challenge-en (MT-ML)" in page.text("#tip")
    page.page.keyboard.press("Escape")
    assert page.page.locator("#tip").is_hidden()


def test_points_of_a_chart_are_reached_by_key_and_explain_themselves(page: Watched) -> None:
    page.page.locator('#role-chart-left [data-tip][tabindex="0"]').focus()
    first = page.text("#tip")
    page.page.keyboard.press("ArrowRight")
    second = page.text("#tip")
    assert first != second
    assert "donor" in second
    assert "recipient" in second


def test_selects_change_their_charts(page: Watched) -> None:
    for select, chart in (
        ("#r-measure", "#regime-chart"),
        ("#r-by", "#regime-chart"),
        ("#role-left", "#role-chart-left"),
        ("#v-regime", "#variance-chart"),
        ("#d-features", "#distance-chart"),
    ):
        before = page.page.locator(chart).inner_html()
        page.page.select_option(select, index=page.count(f"{select} option") - 1)
        assert page.page.locator(chart).inner_html() != before, select
    assert page.page.locator("#r-regime-label").is_visible()


def test_the_intervals_of_the_regimes_are_drawn(page: Watched) -> None:
    assert page.count("#regime-chart .whisker") == 3 * 5
    page.page.locator("#regime-chart [data-tip]").first.hover()
    assert "all transfer: 29 pairs" in page.text("#tip")


@pytest.mark.parametrize("name", ["holed", "two", "full"])
@pytest.mark.parametrize("width", [480, 1280])
def test_the_page_never_scrolls_sideways(browser: Any, name: str, width: int, request: pytest.FixtureRequest) -> None:
    watched = Watched(browser, request.getfixturevalue(name), width=width, scheme="dark")
    watched.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    watched.page.set_viewport_size({"width": 480, "height": 900})
    watched.settle()
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 480


def test_the_full_study_fits_the_screen_and_a_reasonable_file(browser: Any, full: Path) -> None:
    assert full.stat().st_size < 6 * 2**20
    watched = Watched(browser, full)
    assert watched.count(CELLS) == 44 * 44
    fits = (
        "document.getElementById('matrix-scroll').scrollWidth <= document.getElementById('matrix-scroll').clientWidth"
    )
    assert watched.page.evaluate(fits)
    watched.page.select_option("#f-source-task", "hellaswag")
    watched.page.select_option("#f-target-task", "hellaswag")
    assert watched.count(CELLS) == len(LANGUAGES) ** 2
    assert watched.page.locator(CELLS).first.inner_text() != ""


@pytest.mark.parametrize(
    ("tasks", "languages"), [(("arc_challenge",), ("de",)), (("arc_challenge", "hellaswag"), ("de",))]
)
def test_the_smallest_grids_open_without_error(browser: Any, tmp_path: Path, tasks: Any, languages: Any) -> None:
    run = write_run(tmp_path / "run", item_rows(models=MODELS[:1], seeds=(17,), tasks=tasks, languages=languages))
    watched = Watched(browser, write_page(tmp_path / "page.html", run))
    assert watched.faults == []
    assert watched.count(CELLS) == (len(tasks) * len(languages)) ** 2


def test_a_grid_of_one_language_starts_with_what_it_has(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", item_rows(languages=("de",), tasks=("arc_challenge", "global_mmlu", "hellaswag")))
    watched = Watched(browser, write_page(tmp_path / "page.html", run))
    assert watched.page.input_value("#role-left") == "cell|all transfer"
    assert watched.page.input_value("#v-regime") == "all transfer"
    assert watched.count("#variance-chart [data-tip] .bar") > 0
    assert watched.faults == []


def test_it_prints_the_matrix_onto_the_page(browser: Any, full: Path) -> None:
    watched = Watched(browser, full)
    assert len(watched.page.pdf(format="A4")) > 10_000
    watched.page.set_viewport_size({"width": 718, "height": 1000})
    watched.page.emulate_media(media="print")
    watched.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert watched.page.evaluate("document.documentElement.scrollWidth") == 718
    assert watched.page.evaluate("document.getElementById('matrix-table').offsetWidth") <= 690
    watched.page.emulate_media(media="screen")
    watched.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert watched.page.evaluate("document.getElementById('matrix-table').offsetWidth") > 690
    assert watched.faults == []
