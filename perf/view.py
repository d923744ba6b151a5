"""Speed and memory of the local page, and of the report in a browser.

``python -m transfergrid.perf.view [--models N] [--pages N] [--folder DIR] [--limit-s S]`` makes a store once (9 models
x 3 seeds x 45 x 44 x 400 items: 21 million rows), serves it as ``grid view`` does, and asks for random pages.
``python -m transfergrid.perf.view --report PAGE.html`` times how long a report takes to draw in Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from transfergrid.config.text import PAPER_MODELS
from transfergrid.grid import SEEDS, Grid
from transfergrid.perf.analysis import N_ITEMS, model_names, write_store
from transfergrid.store.folder import RunFolder
from transfergrid.view.app import link


def random_pages(n_models: int, n_pages: int) -> list[str]:
    """Return addresses of pages of all kinds, the overview first."""
    generator = np.random.default_rng(0)
    models, cells = model_names(n_models), [cell.name for cell in Grid().cells]

    def pick(values: list[str]) -> str:
        return values[generator.integers(len(values))]

    def source() -> dict[str, str]:
        return {"model": pick(models), "source": pick(cells), "seed": pick([str(seed) for seed in SEEDS])}

    kinds: list[Callable[[], str]] = [
        lambda: "/",
        lambda: link("matrix", model=pick(models)),
        lambda: link("pair", **source(), target=pick(cells), change=pick(["all", "gained", "lost"])),
        lambda: link(
            "item", **source(), task=pick(cells).rpartition("-")[0], item=f"item-{generator.integers(N_ITEMS):04d}"
        ),
        lambda: link("source", **source()),
        lambda: link("compare", **source(), other=pick(cells)),
    ]
    return ["/", *(kinds[generator.integers(len(kinds))]() for _ in range(n_pages))]


def measure_pages(run: RunFolder, n_models: int, n_pages: int, limit_s: float) -> None:
    """Serve a run and print the seconds of its first page and of random ones, by kind, and the server's peak memory."""
    command = [sys.executable, "-m", "transfergrid.cli", "view", "--run", str(run.root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            seconds = ask_pages(server.stdout.readline().strip(), random_pages(n_models, n_pages), limit_s)
            status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        finally:  # else a page that fails would leave this process waiting for its server
            server.terminate()
    every = [each for some in seconds.values() for each in some][1:]
    print(
        f"first page {seconds['/'][0]:.2f} s; of {len(every)} random pages: median {np.median(every):.2f} s, "
        f"95th percentile {np.quantile(every, 0.95):.2f} s, slowest {max(every):.2f} s"
    )
    for kind, some in sorted(seconds.items()):
        print(f"  {kind:10} {len(some):4} pages, median {np.median(some):.2f} s, slowest {max(some):.2f} s")
    peak = next(line for line in status if line.startswith("VmHWM"))
    print(f"peak memory {int(peak.split()[1]) / 2**20:.2f} GiB, {os.cpu_count()} processors")


def ask_pages(address: str, pages: list[str], limit_s: float) -> dict[str, list[float]]:
    """Return how long pages take, by kind, as they are asked for one after another until the time is up."""
    seconds: dict[str, list[float]] = {}
    begun = time.monotonic()
    with httpx.Client(
        base_url=address.partition("/?")[0], follow_redirects=True, timeout=limit_s, trust_env=False
    ) as client:
        client.get(f"/static/page.css?{address.partition('?')[2]}").raise_for_status()
        for number, page in enumerate(pages):
            start = time.monotonic()
            if start - begun > limit_s:
                print(f"stopped after {number} of {len(pages)} pages: {limit_s:g} s are over")
                break
            client.get(page).raise_for_status()
            seconds.setdefault(page.partition("?")[0], []).append(time.monotonic() - start)
            if number % 20 == 0:
                print(f"  page {number} of {len(pages)}, {time.monotonic() - begun:.1f} s", flush=True)
    return seconds


def measure_report(page: Path) -> None:
    """Print the size of a report and how long Chromium takes until every chart is drawn."""
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for _ in range(3):
            tab = browser.new_page()
            start = time.perf_counter()
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("html[data-drawn]")
            print(f"{page.stat().st_size / 2**20:.2f} MB drawn in {time.perf_counter() - start:.2f} s")


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=len(PAPER_MODELS))
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--limit-s", type=float, default=300.0, help="ask for no more pages after this time")
    parser.add_argument("--folder", type=Path, default=None, help="keep the generated run here and use it again")
    parser.add_argument("--report", type=Path, default=None, help="time this page instead")
    options = parser.parse_args()
    if options.report is not None:
        measure_report(options.report)
        return
    with tempfile.TemporaryDirectory() as scratch:
        run = RunFolder(options.folder or Path(scratch))
        if not run.scores.exists():
            print(f"{write_store(run, options.models):,} rows generated")
        measure_pages(run, options.models, options.pages, options.limit_s)


if __name__ == "__main__":
    main()
