"""A small run with texts, some of them hostile, and its server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import uvicorn

from tests.analysis.synthetic import MODELS, item_rows, write_run
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.view.app import make_app
from transfergrid.view.pages import View
from transfergrid.view.serve import open_port

TOKEN = "token-of-the-tests"
MODEL = MODELS[0]
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \x1b[31m " + "long" * 2500
LANGUAGES = ("de", "en", "ar")


def write_viewed_run(root: Path) -> RunFolder:
    """2 models, 2 seeds, 2 tasks x 3 languages, 12 items; the texts of one cell are missing, one item is hostile."""
    run = RunFolder(root)
    rows = item_rows(languages=LANGUAGES)
    for task in ("arc_challenge", "global_mmlu"):
        for language in LANGUAGES[: 3 if task == "arc_challenge" else 2]:
            ids = rows.filter(target_task=task)["item_id"].unique().sort()
            _write_texts(run, task, language, ids.to_list())
    return write_run(root, rows)


def _write_texts(run: RunFolder, task: str, language: str, ids: list[str]) -> None:
    path = run.data / task / language / "test.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for place, name in enumerate(ids):
        question = (
            HOSTILE if place == 0 else ("ما هي العاصمة؟" if language == "ar" else f"Question {place} in {language}?")
        )
        options = {"option_a": "first", "option_b": "second <b>", "option_c": "third", "option_d": "fourth"}
        named = {"id": name, "instruction": question, "option_e": None}
        if task == "global_mmlu":
            named = {"sample_id": name, "subject": "s", "question": question}
        lines.append({**named, **options, "answer": "A"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@contextmanager
def served(run: RunFolder, config: GridConfig | None = None) -> Iterator[str]:
    """Serve a run; lends the address without its token."""
    with open_port(0) as listening:
        server = uvicorn.Server(
            uvicorn.Config(make_app(View(run, config), token=TOKEN), log_level="warning", lifespan="off")
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def slow_change(rows: pl.DataFrame, *, source: str, seed: int, target: tuple[str, str]) -> dict[str, str]:
    """The definition, item by item: what a source does to every item of a target."""
    at = rows.filter(model=MODEL, target_task=target[0], target_language=target[1])
    base = dict(at.filter(source="base").select("item_id", "value").iter_rows())
    found = {}
    for name, value in at.filter(source=source, seed=seed).select("item_id", "value").iter_rows():
        found[name] = "gained" if value > base[name] else "lost" if value < base[name] else "same"
    return found
