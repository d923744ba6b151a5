"""A headless Chromium that opens pages from disk and notes what goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CELLS = ".cells_marks > path, .missing_cells_marks > path"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """Return where Chromium is; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser; install Debian's package 'chromium' (apt-get install chromium)")
    return found


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Start Chromium; lends playwright's browser."""
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page with its console messages, errors and requests."""

    def __init__(self, browser: Any, address: str, *, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-drawn]")

    def _hear(self, message: Any) -> None:
        if "discrete height" not in message.text:  # Vega-Lite says so of every chart whose height follows its rows
            self.faults.append(message.text)

    def cell(self, row: int, column: int) -> Any:
        """Return a cell of the matrix by the places of its source and target."""
        at = f"datum.row === {row} && datum.column === {column}"
        return self.page.evaluate_handle(
            f"[...document.querySelectorAll('{CELLS}')].find(({{__data__: {{datum}}}}) => {at})"
        )

    def cells(self) -> int:
        """Return how many cells of the matrix are shown, scored or not."""
        return int(self.count(CELLS))

    def choose(self, chart: str, label: str, option: str) -> None:
        """Set a select above a chart."""
        self.page.locator(f"#{chart} label", has_text=label).first.locator("select").select_option(label=option)
        self.settle()

    def tip(self) -> dict[str, str]:
        """Return what the tooltip says, by name."""
        rows = self.page.locator("#vg-tooltip-element tr").all()
        pairs = [row.locator("td").all_inner_texts() for row in rows]
        return {name.rstrip(":"): value for name, value in pairs}

    def settle(self) -> None:
        """Wait until what was started has been drawn."""
        self.page.evaluate(
            "new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done))))"
        )

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())
