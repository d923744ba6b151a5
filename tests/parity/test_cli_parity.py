"""What ``grid eval`` stores and prints against lm-evaluation-harness's own results, base and adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import mean

import polars as pl
import pytest
from click.testing import CliRunner

from tests.parity.harness import CELLS, LANGUAGES, rows_file
from tests.parity.test_lm_eval_scores import TOLERANCE_NATS, run_hf
from transfergrid.cli import main
from transfergrid.grid import TASKS, Cell
from transfergrid.store.folder import RunFolder

pytestmark = pytest.mark.engine

N_ITEMS = 2
SOURCE = Cell("xnli", "sw")


def write_run(folder: Path, model: Path, adapter: Path) -> list[str]:
    """Write the first rows of every cell, a configuration and an adapter; return the options of ``grid eval``."""
    for cell in CELLS:
        target = folder / "rows" / cell.task / cell.language
        target.mkdir(parents=True)
        lines = rows_file(cell).read_text(encoding="utf-8").splitlines(keepends=True)
        (target / "test.jsonl").write_text("".join(lines[:N_ITEMS]), encoding="utf-8")
        shutil.copy(rows_file(cell).with_name("train.jsonl"), target / "train.jsonl")
    config = {
        "models": [{"path": str(model), "name": "tiny"}],
        "tasks": list(TASKS),
        "languages": list(LANGUAGES),
        "data": {"source": "local", "path": "rows"},
        "engine": {"dtype": "float32"},
    }
    (folder / "grid.yaml").write_text(json.dumps(config), encoding="utf-8")
    shutil.copytree(adapter, folder / "theirs" / SOURCE.name)
    return ["--config", str(folder / "grid.yaml"), "--run", str(folder / "run"), "--adapters", str(folder / "theirs")]


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that the command line has scored; its JSON is ``report.json``."""
    folder = tmp_path_factory.mktemp("parity")
    options = write_run(folder, tiny_llama, tiny_adapters[0])
    result = CliRunner().invoke(main, ["eval", "--multi-lora", "--json", *options])
    assert result.exit_code == 0, result.output
    (folder / "run" / "report.json").write_text(result.stdout, encoding="utf-8")
    return RunFolder(folder / "run")


@pytest.mark.parametrize("source", [None, SOURCE], ids=["base", "adapter"])
def test_stored_items_equal_the_harness(
    run: RunFolder, tiny_llama: Path, tiny_adapters: tuple[Path, ...], harness_cache: Path, source: Cell | None
) -> None:
    adapter = None if source is None else tiny_adapters[0]
    theirs = run_hf(tiny_llama, harness_cache, chat_template=True, adapter=adapter)
    rows = pl.read_parquet(run.scores / "*.parquet")
    rows = rows.filter(pl.col("source_task").eq_missing(None if source is None else source.task))
    assert rows.height == len(CELLS) * N_ITEMS
    for cell in CELLS:
        ours = rows.filter(pl.col("target_task") == cell.task, pl.col("target_language") == cell.language)
        by_id = {row["item_id"]: row for row in ours.iter_rows(named=True)}
        assert list(by_id) == [item.item_id for item in theirs[cell]]
        for item in theirs[cell]:
            row = by_id[item.item_id]
            assert row["loglikelihoods_nats"] == pytest.approx(item.loglikelihoods, abs=TOLERANCE_NATS)
            metrics = {"acc": row["pred"] == row["gold"], "acc_norm": row["pred_norm"] == row["gold"]}
            assert item.metrics == {name: float(metrics[name]) for name in item.metrics}


def test_printed_baselines_equal_the_harness(run: RunFolder, tiny_llama: Path, harness_cache: Path) -> None:
    theirs = run_hf(tiny_llama, harness_cache, chat_template=True)
    report = json.loads((run.root / "report.json").read_text(encoding="utf-8"))
    scores = {Cell(row["target_task"], row["target_language"]): row["score"] for row in report["baselines"]}
    expected = {
        cell: mean(item.metrics.get("acc_norm", item.metrics["acc"]) for item in items)
        for cell, items in theirs.items()
    }
    assert scores == expected
    assert report["is_complete"] is True
