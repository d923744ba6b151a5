"""The sweep on the real engine: the tiny grid in full, more adapters than slots, and each adapter merged."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.engine.sweeps import stored_rows, vary_adapter
from transfergrid.config.selection import Narrowing
from transfergrid.config.settings import DataConfig, EngineConfig, GridConfig, ModelConfig
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.scorers.multi_lora import MultiLora
from transfergrid.engine.scorers.reference import ReferenceScorer
from transfergrid.engine.scorers.sequential import Sequential
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import Cell
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_noise_floor

pytestmark = pytest.mark.engine

SEED = 17
KEYS = ["source_task", "source_language", "target_task", "target_language", "item_id"]
CHECKED = ("base", "arc_challenge-bn", "truthfulqa-zh")


@pytest.fixture(scope="module")
def config(tiny_llama: Path) -> GridConfig:
    """4 tasks x 11 languages, 2 slots, 1 item per cell."""
    return GridConfig(
        models=(ModelConfig(path=str(tiny_llama), name="tiny"),),
        seeds=(SEED,),
        data=DataConfig(max_test_items=1, max_train_items=1),
        engine=EngineConfig(dtype="float32", max_loras=2),
    )


@pytest.fixture(scope="module")
def run(config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run folder with 44 random adapters of ranks 4 and 8, and the scores of the whole grid."""
    folder = RunFolder(tmp_path_factory.mktemp("grid"))
    for number, cell in enumerate(config.grid.cells):
        vary_adapter(tiny_adapters[1 + number % 2], folder.adapter("tiny", SEED, cell), seed=number)
    report = evaluate(config, folder, EvalRequest(noise_floor=True), maker=MultiLora(config.engine))
    assert report.is_complete, report.as_json()["failures"]
    return folder


def test_the_whole_grid_is_there_and_every_adapter_has_scores_of_its_own(run: RunFolder) -> None:
    rows = stored_rows(run)
    assert rows.height == 45 * 44
    assert rows["unscored_reason"].null_count() == rows.height
    sums = rows.with_columns(first=pl.col("loglikelihoods_nats").list.first())
    assert (
        sums.group_by("target_task", "target_language").agg(pl.col("first").n_unique())["first"].to_list() == [45] * 44
    )


def test_two_scorings_of_the_base_agree_in_float32(run: RunFolder) -> None:
    table = read_noise_floor(run)
    assert (table.height, table["n_items"].sum()) == (44, 44)
    assert table["n_flips"].sum() == 0
    assert table["max_abs_diff_nats"].max() < 1e-3  # type: ignore[operator]


def test_what_is_scored_again_has_the_same_bits(config: GridConfig, run: RunFolder) -> None:
    before = stored_rows(run)
    narrowing = Narrowing(sources=CHECKED, targets=("hellaswag-hi", "truthfulqa-en"))
    request = EvalRequest(narrowing=narrowing, force=True)
    report = evaluate(config, run, request, maker=MultiLora(config.engine))
    assert report.totals.n_cells == 6
    assert stored_rows(run).equals(before)


def test_merged_adapters_score_as_served_ones(config: GridConfig, run: RunFolder, tmp_path: Path) -> None:
    merged = RunFolder(tmp_path / "merged")
    merged.root.mkdir()
    merged.adapters.symlink_to(run.adapters)
    narrowing = Narrowing(sources=CHECKED, targets=("arc_challenge-de", "global_mmlu-zh"))
    report = evaluate(config, merged, EvalRequest(narrowing=narrowing), maker=Sequential(config.engine))
    assert report.is_complete, report.as_json()["failures"]
    found = stored_rows(merged)
    assert found.height == 6
    pairs = found.join(stored_rows(run), on=KEYS, nulls_equal=True, validate="1:1", suffix="_served")
    for ours, served in pairs.select("loglikelihoods_nats", "loglikelihoods_nats_served").iter_rows():
        assert ours == pytest.approx(served, abs=2e-3)
    assert set(found["run_key"]).isdisjoint(stored_rows(run)["run_key"])


def test_stored_scores_are_those_of_transformers_and_peft(config: GridConfig, run: RunFolder) -> None:
    from transfergrid.engine.models.tokenizer import load_tokenizer
    from transfergrid.engine.work.base_model import tokenisation_settings
    from transfergrid.engine.work.cells import load_cell, tokenise_cells

    model = Path(config.models[0].path)
    cell = Cell("arc_challenge", "hi")
    settings = tokenisation_settings(config, model)
    target = tokenise_cells([load_cell(config, run.data, cell)], load_tokenizer(model), settings)[cell]
    scorer = ReferenceScorer(model)
    prepared = scorer.prepare(target.scorable)
    maker = MultiLora(config.engine)
    for source in CHECKED[1:]:
        trained = Cell.parse(source)
        adapter = maker.check_adapter(run.adapter("tiny", SEED, trained), model, name=source)
        expected = next(iter(scorer.score(prepared, adapter))).loglikelihoods_nats
        row = stored_rows(run).filter(
            pl.col("source_task") == trained.task,
            pl.col("source_language") == trained.language,
            pl.col("target_task") == cell.task,
            pl.col("target_language") == cell.language,
        )
        assert row["loglikelihoods_nats"][0].to_list() == pytest.approx(expected, abs=2e-3)
