"""The local page in a browser: from the matrix to an item, hostile texts, narrow screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.report.browser import open_chromium
from tests.view.pages import HOSTILE, MODEL, TOKEN, served, write_viewed_run
from tests.view.test_status import CELLS, CONFIG, write_part
from transfergrid.grid import BASE, Source
from transfergrid.store.folder import RunFolder
from transfergrid.view import app


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(write_viewed_run(tmp_path_factory.mktemp("runs") / "run")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_chromium() as found:
        yield found


def open_page(browser: Any, address: str, **options: Any) -> tuple[Any, list[str]]:
    page = browser.new_context(**options).new_page()
    faults: list[str] = []
    page.on("console", lambda said: None if "discrete height" in said.text else faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.goto(f"{address}/?token={TOKEN}")
    return page, faults


def test_from_the_overview_to_the_questions_that_a_source_broke(browser: Any, address: str) -> None:
    page, faults = open_page(browser, address)
    page.click(f"text=the matrix of {MODEL}")
    page.wait_for_selector("html[data-drawn]")
    page.locator("#matrix-chart").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert "trained on arc_challenge-de · scored on arc_challenge-de" in page.inner_text("#matrix-detail")
    page.keyboard.press("Enter")
    page.wait_for_url("**/pair?**")
    assert page.inner_text("h1") == "arc_challenge-de on arc_challenge-de"
    n_lost = page.inner_text("dl.figures a >> nth=1")
    page.click("dl.figures a >> nth=1")
    assert page.locator("details.item.lost").count() == page.locator("details.item").count() == int(n_lost)
    page.select_option("select[name=change]", "lost")
    page.click("text=Apply")
    assert "change=lost" in page.url
    page.goto(page.url)  # a deep link
    assert page.locator("details.item.lost").count() == page.locator("details.item").count()
    page.click("text=this item in all languages >> nth=0")
    assert page.locator("article.item").count() == 3
    assert page.locator("table.strip tbody tr").count() == 6
    page.click("table.strip a >> nth=0")
    page.click("main a >> nth=0")
    page.wait_for_selector("html[data-drawn]")
    page.click("text=compare with another source")
    assert page.locator("tbody tr").count() == 6
    assert faults == []


def test_a_click_on_a_cell_opens_its_items(browser: Any, address: str) -> None:
    page, faults = open_page(browser, address)
    page.goto(f"{address}/matrix?model={MODEL}")
    page.wait_for_selector("html[data-drawn]")
    page.locator(".cells_marks > path").first.click()
    page.wait_for_url("**/pair?**")
    assert faults == []


@pytest.mark.parametrize(("width", "scheme"), [(480, "dark"), (1280, "light")])
def test_hostile_texts_are_texts_and_no_page_scrolls_sideways(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    page, faults = open_page(browser, address, viewport={"width": width, "height": 900}, color_scheme=scheme)
    of = f"model={MODEL}&source=arc_challenge-de&seed=17"
    for path in ("/", f"/matrix?model={MODEL}", f"/pair?{of}&target=arc_challenge-ar&q=longlong", f"/source?{of}"):
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth") == width, path
    page.goto(f"{address}/pair?{of}&target=arc_challenge-ar&q=longlong")
    assert HOSTILE.split("\x1b")[0] in page.inner_text("details.item pre")
    assert page.locator("img").count() == 0
    page.goto(f"{address}/pair?{of}&target=arc_challenge-ar&q=العاصمة")
    assert page.locator("pre.question").first.evaluate("each => each.dir") == "auto"
    assert faults == []


def test_the_overview_of_an_unfinished_run_follows_by_itself(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_REFRESH_S", 1)
    run = RunFolder(tmp_path / "run")
    write_part(run, BASE, CELLS)
    with served(run, CONFIG) as address:
        page, faults = open_page(browser, address)
        assert "2 0 4 0" in " ".join(page.inner_text("tbody tr >> nth=1").split())
        write_part(run, Source.of(CELLS[0], 17), CELLS, content="any")
        page.wait_for_selector("tbody tr:nth-child(2) td:nth-child(3):text-is('4')", timeout=20_000)
        assert faults == []
