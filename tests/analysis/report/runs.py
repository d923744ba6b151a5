"""Runs and pages that the tests of the report share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.analysis.synthetic import MODELS, item_frame, item_row, item_rows, write_run
from transfergrid.analysis.report.origins import read_run_manifest
from transfergrid.analysis.report.page import PageContent, render_page
from transfergrid.analysis.report.proof import find_proof
from transfergrid.analysis.tables.build import build_tables
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Cell
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_noise_floor

FAST = AnalysisConfig(bootstrap_resamples=100, permutations=99)
DE, EN = Cell("arc_challenge", "de"), Cell("arc_challenge", "en")
UNSCORED = (DE, Cell("global_mmlu", "fr"))
"""A (source, target) pair whose items could not be scored in `write_holed_run`."""
TOO_LONG = "item is longer than 2048 tokens"


def write_holed_run(root: Path, *, model: str = MODELS[0], reason: str = TOO_LONG) -> RunFolder:
    """2 tasks x 3 languages, one model, 32 items; one pair is not scored and one is a certain gain."""
    rows = item_rows(models=MODELS[:1], seeds=(17,), n_items=32)
    source, target = UNSCORED
    gone = (
        (pl.col("source_task") == source.task)
        & (pl.col("source_language") == source.language)
        & (pl.col("target_task") == target.task)
        & (pl.col("target_language") == target.language)
    ).fill_null(False)
    nothing = dict.fromkeys(("pred", "pred_norm", "loglikelihoods_nats"))
    unscored = [{**row, **nothing, "unscored_reason": reason} for row in rows.filter(gone).iter_rows(named=True)]
    sure = (pl.col("target_task") == EN.task) & (pl.col("target_language") == EN.language)
    from_de = (pl.col("source_task") == DE.task) & (pl.col("source_language") == DE.language)
    decided = sure & (pl.col("source_task").is_null() | from_de.fill_null(False))
    answers = [
        item_row(MODELS[0], 17 if source else None, source, EN, item, 0 if source else 1)
        for source in (None, DE)
        for item in range(32)
    ]
    frames = [rows.filter(~gone & ~decided), item_frame(unscored), item_frame(answers)]
    return write_run(root, pl.concat(frames).with_columns(model=pl.lit(model)))


def write_two_models(root: Path) -> RunFolder:
    """2 tasks x 3 languages, two models, two seeds."""
    return write_run(root, item_rows())


def page_of(run: RunFolder, settings: AnalysisConfig = FAST) -> str:
    tables = build_tables(run)
    content = PageContent(
        name=run.root.name,
        tables=tables,
        settings=settings,
        noise_floor=read_noise_floor(run),
        manifest=read_run_manifest(run),
        proof=find_proof(run, None, tables.single_source, settings),
    )
    return render_page(content)


def data_of(page: str) -> dict[str, Any]:
    """Read the JSON out of a page."""
    start = page.index('id="data">') + len('id="data">')
    found: dict[str, Any] = json.loads(page[start : page.index("</script>", start)])
    return found


def matrix_of(page: str) -> dict[str, Any]:
    """Return views, sources, targets and reasons out of the description of a page's matrix."""
    chart = data_of(page)["charts"]["matrix-chart"]
    params = {each["name"]: each["value"] for each in chart["params"] if "value" in each}
    lists = {name: params[name] for name in ("sources", "targets", "reasons")}
    return {"views": chart["datasets"][chart["data"]["name"]], **lists}


def place_of(matrix: dict[str, Any], source: Cell, target: Cell) -> int:
    """Return the place of a pair in the matrix' lists."""
    row = matrix["sources"].index([source.task, source.language, source.name])
    return row * len(matrix["targets"]) + matrix["targets"].index([target.task, target.language])


def random_deltas(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.3, 2.0, shape)
