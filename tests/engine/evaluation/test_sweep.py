"""The sweep on a maker without a model: what runs, what is kept, what is refused, what is listed as failed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.engine.sweeps import SEED, FakeMaker, copy_adapter, stored_rows, sweep
from transfergrid.config.prompts import PromptConfig
from transfergrid.config.settings import EngineConfig, GridConfig
from transfergrid.engine.evaluation.events import CellFinished, Event, Notice, SourceStarted, SweepStarted
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.work import base_model
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import Cell, UserError
from transfergrid.store import file_index, score_store
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import INDEX_FILE, ScoreStore

ARC_DE = Cell("arc_challenge", "de")


def count_calls(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Replace a function by itself and note the first argument of every call."""
    calls: list[Any] = []
    original = getattr(owner, name)

    def counted(first: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(first)
        return original(first, *arguments, **options)

    patch.setattr(owner, name, counted)
    return calls


def test_a_finished_run_is_scanned_once_and_nothing_settled_is_read_again(
    config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_index, "_SETTLED_NS", 0)
    sweep(config, run)
    scans = count_calls(monkeypatch, ScoreStore, "scan")
    footers = count_calls(monkeypatch, score_store, "_read_footer")
    adapters = count_calls(monkeypatch, FakeMaker, "check_adapter")
    models = count_calls(monkeypatch, base_model, "model_revision")
    assert sweep(config, run).is_complete
    assert (len(scans), len(footers), len(adapters), len(models)) == (1, 5, 0, 0)
    assert sweep(config, run).is_complete
    assert (len(scans), len(footers), len(adapters), len(models)) == (2, 5, 0, 0)
    (run.scores / INDEX_FILE).write_text("damaged", encoding="utf-8")
    assert sweep(config, run).is_complete
    assert (len(footers), len(adapters), len(models)) == (10, 4, 1)


def test_an_adapter_of_other_content_is_seen_though_its_check_was_kept(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_index, "_SETTLED_NS", 0)
    sweep(config, run)
    copy_adapter(tiny_adapters[1], run.adapter("tiny", SEED, ARC_DE), note=ARC_DE.name)
    with pytest.raises(UserError, match=r"4 finished cell\(s\)"):
        sweep(config, run)


def events_of(config: GridConfig, run: RunFolder, maker: FakeMaker | None = None, **request: Any) -> list[Event]:
    seen: list[Event] = []
    evaluate(config, run, EvalRequest(**request), maker=maker or FakeMaker(), on_event=seen.append)
    return seen


def test_the_whole_grid_is_scored_once(config: GridConfig, run: RunFolder) -> None:
    maker = FakeMaker()
    report = sweep(config, run, maker)
    assert report.is_complete
    assert (report.n_finished, report.totals.n_cells, report.totals.n_items) == (20, 20, 60)
    rows = stored_rows(run)
    assert rows.height == 60
    assert rows.select(pl.struct(rows.columns[:7]).n_unique()).item() == 60
    assert rows["unscored_reason"].null_count() == 60
    assert maker.opened[0].is_closed
    again = sweep(config, run, maker)
    assert again.is_complete
    assert again.totals.n_cells == 0
    assert len(maker.opened) == 1
    assert stored_rows(run).equals(rows)


def test_the_base_comes_first_and_the_next_adapter_is_loaded_ahead(config: GridConfig, run: RunFolder) -> None:
    maker = FakeMaker()
    sweep(config, run, maker)
    scorer = maker.opened[0]
    order = list(dict.fromkeys(scorer.scored))
    assert order[0] is None
    assert order[1:] == scorer.prefetched
    assert [str(name).partition("@")[0] for name in order[1:]] == [f"{cell}-s17" for cell in config.grid.cells]


def test_the_base_is_scored_once_per_model_not_per_seed(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...]
) -> None:
    for cell in config.grid.cells:
        copy_adapter(tiny_adapters[1], run.adapter("tiny", 42, cell), note=cell.name)
    report = sweep(config.model_copy(update={"seeds": (SEED, 42)}), run)
    assert (report.n_finished, report.is_complete) == (36, True)
    base = stored_rows(run).filter(pl.col("source_task").is_null())
    assert (base.height, base["seed"].null_count()) == (12, 12)


def test_sources_and_targets_can_be_narrowed(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run, narrowing={"sources": ("base", "arc_challenge-de"), "targets": ("global_mmlu-en",)})
    found = stored_rows(run).select("source_task", "target_task", "target_language").unique().sort("source_task")
    assert found.rows() == [(None, "global_mmlu", "en"), ("arc_challenge", "global_mmlu", "en")]
    assert sweep(config, run).totals.n_cells == 18


def test_a_seed_that_is_named_twice_is_scored_once(config: GridConfig, run: RunFolder) -> None:
    report = sweep(config, run, narrowing={"seeds": (SEED, SEED), "sources": ("arc_challenge-de",)})
    assert (report.n_finished, report.totals.n_cells, stored_rows(run).height) == (4, 4, 12)


def test_results_do_not_depend_on_the_order_in_which_cells_were_scored(
    config: GridConfig, run: RunFolder, tmp_path: Path
) -> None:
    sweep(config, run)
    other = RunFolder(tmp_path / "other")
    shutil.copytree(run.adapters, other.adapters)
    for targets in (("global_mmlu-en",), ("arc_challenge-de", "arc_challenge-en"), ()):
        sweep(config, other, narrowing={"targets": targets})
    assert stored_rows(other).equals(stored_rows(run))


def test_progress_counts_what_is_left(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run, narrowing={"sources": ("base",)})
    seen = events_of(config, run)
    start = next(event for event in seen if isinstance(event, SweepStarted))
    assert start == SweepStarted(n_sources=5, n_sources_finished=1, n_cells=20, n_finished=4, n_items=48)
    assert sum(isinstance(event, SourceStarted) for event in seen) == 4
    assert sum(isinstance(event, CellFinished) for event in seen) == 16


def test_another_setup_is_never_mixed_and_the_part_that_changed_is_named(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run)
    with pytest.raises(UserError, match=r"20 finished cell\(s\).*engine.version: '1' -> '2'; give --force"):
        sweep(config, run, FakeMaker(version="2"))
    other = config.model_copy(update={"prompts": PromptConfig(eval_chat_template=False)})
    with pytest.raises(UserError, match=r"prompts\.chat_template: True -> False"):
        sweep(other, run)
    with pytest.raises(UserError, match=r"limits\.max_length: 2048 -> 512"):
        sweep(config.model_copy(update={"engine": EngineConfig(max_model_len=512)}), run)


def test_other_items_are_named_by_their_target(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run)
    fewer = config.model_copy(update={"data": config.data.model_copy(update={"max_test_items": 2})})
    with pytest.raises(UserError, match=r"items of arc_challenge-de: [0-9a-f]{12} -> [0-9a-f]{12}"):
        sweep(fewer, run)


def test_a_retrained_adapter_is_refused_until_forced(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...]
) -> None:
    sweep(config, run)
    before = stored_rows(run)
    copy_adapter(tiny_adapters[1], run.adapter("tiny", SEED, ARC_DE), note="retrained")
    with pytest.raises(
        UserError, match=r"4 finished cell\(s\), for example tiny.s17.arc_challenge-de.*adapter.content"
    ):
        sweep(config, run)
    report = sweep(config, run, force=True, narrowing={"sources": ("arc_challenge-de",)})
    assert report.totals.n_cells == 4
    after = stored_rows(run)
    is_retrained = pl.col("source_task").eq("arc_challenge") & pl.col("source_language").eq("de")
    assert after.height == 60
    assert after.filter(~is_retrained.fill_null(False)).equals(before.filter(~is_retrained.fill_null(False)))
    assert not after.filter(is_retrained).equals(before.filter(is_retrained))
    assert len(list((run.scores / "aside").glob("*.parquet"))) == 1
    assert sweep(config, run).is_complete


def test_force_does_not_reach_beyond_what_is_asked(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run)
    with pytest.raises(UserError, match="some of them were not asked for, so --force leaves them"):
        sweep(config, run, FakeMaker(version="2"), force=True, narrowing={"sources": ("base",)})
    assert sweep(config, run, FakeMaker(version="2"), force=True).totals.n_cells == 20
    assert stored_rows(run).height == 60


def test_many_changes_are_cut_short(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run)
    other = config.model_copy(
        update={
            "prompts": PromptConfig(eval_chat_template=False, eval_format="train"),
            "engine": EngineConfig(max_model_len=512, truncation="left"),
        }
    )
    with pytest.raises(UserError, match=r"and [0-9]+ more; give --force"):
        sweep(other, run, FakeMaker(version="2"))


def test_cells_of_the_other_way_are_kept_and_said_so(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run, FakeMaker(way="sequential"), narrowing={"sources": ("arc_challenge-de",)})
    seen = events_of(config, run)
    notices = [event.message for event in seen if isinstance(event, Notice)]
    assert notices == ["4 cell(s) were scored in another way than 'multi-lora' and are kept; --force scores them again"]
    assert stored_rows(run)["run_key"].n_unique() == 20


def test_a_corrupt_part_is_set_aside_and_only_its_cells_are_scored_again(config: GridConfig, run: RunFolder) -> None:
    sweep(config, run)
    before = stored_rows(run)
    part = next(run.scores.glob("tiny.s17.global_mmlu-de.*.parquet"))
    part.write_bytes(part.read_bytes()[:-200])
    seen = events_of(config, run)
    assert any(isinstance(event, Notice) and "content that its name says" in event.message for event in seen)
    assert sum(isinstance(event, CellFinished) for event in seen) == 4
    assert stored_rows(run).equals(before)
