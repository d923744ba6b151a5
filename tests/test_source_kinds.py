"""A new kind of source: registered with its rule, scored, and read back, with nothing else changed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.engine.sweeps import SEED, FakeMaker, add_adapters, copy_adapter, small_config
from transfergrid.analysis.analyze import analyze
from transfergrid.analysis.transfer.sources import read_sources
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.places import AdapterFolder
from transfergrid.engine.evaluation.summary import EvaluationReport
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import KINDS, Cell, Source, UserError, regime_of_several
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import ScoreStore
from transfergrid.store.scores import scan_scores, score_parts

CELLS = (Cell("arc_challenge", "de"), Cell("global_mmlu", "en"))
REGIMES = {
    "arc_challenge-de": "IN-MIX",
    "global_mmlu-en": "IN-MIX",
    "arc_challenge-en": "MT-CL",
    "global_mmlu-de": "MT-CL",
}


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    return small_config(tiny_llama)


@pytest.fixture
def run(config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    add_adapters(config, folder, tiny_adapters[0])
    evaluate(config, folder, EvalRequest(), maker=FakeMaker())
    return folder


@pytest.fixture
def a_blend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "blend", regime_of_several)


def score_blend(config: GridConfig, run: RunFolder, template: Path) -> EvaluationReport:
    folder = run.root.parent / "others"
    copy_adapter(template, folder / "both", note="both")
    table = folder / "table.csv"
    cells = " ".join(cell.name for cell in CELLS)
    table.write_text(f"path,kind,source,cells,seed\nboth,blend,two-cells,{cells},{SEED}\n", encoding="utf-8")
    request = EvalRequest(adapters=AdapterFolder(folder=folder, table=table))
    return evaluate(config, run, request, maker=FakeMaker())


def test_a_source_of_two_cells_is_scored_and_stands_in_the_transfer_table_alone(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...], a_blend: None
) -> None:
    before = dict(analyze(run, config).tables.named())
    report = score_blend(config, run, tiny_adapters[1])
    assert report.is_complete
    assert report.deltas.filter(pl.col("source_kind") == "blend")["regime"].to_list() == ["IN-MIX", "MT-CL"]
    stored = [part.origin.source for part in ScoreStore(run.scores).scan().parts]
    assert Source("blend", "two-cells", CELLS, SEED) in stored
    after = dict(analyze(run, config).tables.named())
    for name in ("transfer", "transfer_by_seed"):
        mixed = after[name].filter(pl.col("source") == "two-cells")
        target = pl.concat_str("target_task", "target_language", separator="-")
        assert dict(mixed.select(target, "regime").iter_rows()) == REGIMES
        assert mixed["delta_pp"].null_count() == 0
        assert mixed["source_kind"].unique().to_list() == ["blend"]
    for name in before:  # nothing that is said of single cells changes
        rows = after[name].filter(pl.col("source") != "two-cells") if "source" in before[name].columns else after[name]
        assert rows.equals(before[name]), name


def test_a_source_alone_in_the_store_is_analysed(
    config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path, a_blend: None
) -> None:
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    score_blend(config, run, tiny_adapters[1])
    assert analyze(run).tables.transfer.select("source", "n_items").unique().rows() == [("two-cells", 3)]


def test_a_name_with_two_meanings_is_refused(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...], a_blend: None
) -> None:
    score_blend(config, run, tiny_adapters[1])
    scores = scan_scores(score_parts(run))
    other = scores.filter(pl.col("source") == "two-cells").with_columns(source_cells=pl.lit("hellaswag-de"))
    with pytest.raises(UserError, match=r"source 'two-cells' is 'blend' of 'arc_challenge-de global_mmlu-en' in one"):
        read_sources(pl.concat([scores, other]), ["two-cells"])


def test_an_unknown_kind_in_a_table_of_adapters_is_refused(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...]
) -> None:
    with pytest.raises(UserError, match=r"source 'two-cells' has the unknown kind 'blend'"):
        score_blend(config, run, tiny_adapters[1])
