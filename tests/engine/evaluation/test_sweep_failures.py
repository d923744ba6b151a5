"""What cannot be scored is listed with its reason, stored as null, tried again; the rest goes on."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.engine.fake_scorer import FakeScorer, hashed_loglikelihood
from tests.engine.sweeps import SEED, FakeMaker, add_adapters, copy_adapter, stored_rows, sweep
from tests.models import edit_json
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.config.settings import EngineConfig, GridConfig, ModelConfig
from transfergrid.engine.adapters.folder import WEIGHTS_FILE
from transfergrid.engine.evaluation.events import CellFinished, Event, Failed
from transfergrid.engine.evaluation.modes import NOT_FINITE
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import Adapter, ItemLoglikelihoods, Prepared, TokenisedItem
from transfergrid.engine.scorers.prepared import WholeItems
from transfergrid.engine.work.failures import FailureLog, read_failures
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder
from transfergrid.store.score_store import ScoreStore

ARC_DE = Cell("arc_challenge", "de")
ALL_TARGETS = [
    f"tiny s17 arc_challenge-de on {task}-{language}"
    for task in ("arc_challenge", "global_mmlu")
    for language in ("de", "en")
]


def events_of(config: GridConfig, run: RunFolder, maker: FakeMaker | None = None, **request: Any) -> list[Event]:
    seen: list[Event] = []
    evaluate(config, run, EvalRequest(**request), maker=maker or FakeMaker(), on_event=seen.append)
    return seen


def break_adapter(run: RunFolder, how: str) -> None:
    folder = run.adapter("tiny", SEED, ARC_DE)
    if how == "missing":
        shutil.rmtree(folder)
    elif how == "truncated":
        (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:40])
    elif how == "unserved":
        edit_json(folder / "adapter_config.json", use_dora=True)
    else:
        (folder / WEIGHTS_FILE).unlink()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "no adapter of that name in .*; 'grid train-adapters' trains it"),
        ("truncated", "its header should have 3520 bytes, the file has 40"),
        ("unserved", "uses DoRA"),
        ("half saved", "has no adapter_model.safetensors"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_listed_and_the_rest_goes_on(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...], how: str, reason: str
) -> None:
    break_adapter(run, how)
    report = sweep(config, run)
    assert not report.is_complete
    assert [failure.what for failure in report.failures] == ["tiny s17 arc_challenge-de"]
    with pytest.raises(UserError, match=reason):
        raise UserError(report.failures[0].reason)
    assert report.n_finished == 16
    assert read_failures(run.scores) == list(report.failures)
    copy_adapter(tiny_adapters[0], run.adapter("tiny", SEED, ARC_DE), note="whole again")
    again = sweep(config, run)
    assert again.is_complete
    assert again.totals.n_cells == 4
    assert read_failures(run.scores) == []


def test_a_failure_outside_of_what_is_asked_stays_listed(config: GridConfig, run: RunFolder) -> None:
    break_adapter(run, "missing")
    sweep(config, run)
    report = sweep(config, run, narrowing={"sources": ("base",)})
    assert report.is_complete
    assert len(read_failures(run.scores)) == 1


def test_a_model_that_is_not_there_does_not_sink_the_others(config: GridConfig, run: RunFolder, tmp_path: Path) -> None:
    models = (ModelConfig(path=str(tmp_path / "nowhere"), name="gone"), *config.models)
    report = sweep(config.model_copy(update={"models": models}), run)
    assert [failure.what for failure in report.failures] == ["gone"]
    assert report.n_finished == 20


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_model_is_listed_once_and_does_not_sink_the_others(
    config: GridConfig, run: RunFolder, tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path, file: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    (broken / file).write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    damaged = config.model_copy(update={"models": (ModelConfig(path=str(broken), name="damaged"),)})
    add_adapters(damaged, run, tiny_adapters[0])
    report = sweep(config.model_copy(update={"models": (*damaged.models, *config.models)}), run)
    assert [failure.what for failure in report.failures] == ["damaged"]
    assert file in report.failures[0].reason
    assert report.n_finished == 20


def test_a_model_without_a_chat_template_is_listed(
    config: GridConfig, run: RunFolder, tiny_llama: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(tiny_llama, plain)
    (plain / "chat_template.jinja").unlink()
    models = (ModelConfig(path=str(plain), name="plain"), *config.models)
    report = sweep(config.model_copy(update={"models": models}), run, narrowing={"sources": ("base",)})
    assert [failure.what for failure in report.failures] == ["plain"]
    assert "has no chat template" in report.failures[0].reason
    assert report.n_finished == 4


def test_a_log_likelihood_that_is_not_finite_is_null_with_a_reason_and_tried_again(
    config: GridConfig, run: RunFolder
) -> None:
    item_id = "odd"

    def one_nan(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
        if adapter is not None and adapter.name.startswith("arc_challenge-de") and item.item_id == item_id:
            return math.nan
        return hashed_loglikelihood(item, choice, adapter)

    sweep(config, run, narrowing={"sources": ("base",)})
    item_id = stored_rows(run).filter(pl.col("target_task") == "global_mmlu")["item_id"][0]
    report = sweep(config, run, FakeMaker(one_nan))
    assert not report.is_complete
    assert report.n_finished == 20
    unscored = stored_rows(run).filter(pl.col("unscored_reason").is_not_null())
    assert unscored["unscored_reason"].unique().to_list() == [NOT_FINITE]
    assert unscored.select("pred", "pred_norm", "loglikelihoods_nats").null_count().row(0) == (2, 2, 2)
    assert report.unscored.select("item_id", "n_sources").rows() == [(item_id, 1), (item_id, 1)]
    again = sweep(config, run)
    assert again.is_complete
    assert again.totals.n_cells == 2
    assert stored_rows(run)["unscored_reason"].null_count() == 60


def test_an_item_that_is_too_long_is_null_with_a_reason_and_not_tried_again(config: GridConfig, run: RunFolder) -> None:
    rows = sweep_short(config, run)
    assert rows["unscored_reason"].null_count() < rows.height
    long = rows.filter(pl.col("unscored_reason").is_not_null())
    assert long["unscored_reason"].str.contains("more than fit into").all()
    assert long["pred"].null_count() == long.height
    maker = FakeMaker()
    report = sweep(config.model_copy(update={"engine": EngineConfig(max_model_len=260)}), run, maker)
    assert not report.is_complete
    assert report.totals.n_cells == 0
    assert maker.opened == []


def sweep_short(config: GridConfig, run: RunFolder) -> pl.DataFrame:
    report = sweep(config.model_copy(update={"engine": EngineConfig(max_model_len=260)}), run)
    assert report.n_finished == 20
    assert not report.is_complete
    return stored_rows(run)


def test_a_target_of_which_nothing_fits_is_stored_without_scores(config: GridConfig, run: RunFolder) -> None:
    report = sweep(config.model_copy(update={"engine": EngineConfig(max_model_len=8)}), run)
    assert report.n_finished == 20
    assert stored_rows(run)["pred"].null_count() == 60
    assert report.baselines["score"].null_count() == 4


def test_a_truncated_context_is_counted_in_its_row(config: GridConfig, run: RunFolder) -> None:
    engine = EngineConfig(max_model_len=260, truncation="left")
    assert sweep(config.model_copy(update={"engine": engine}), run).is_complete
    assert stored_rows(run)["n_truncated_tokens"].max() > 0  # type: ignore[operator]


class BrokenScorer(FakeScorer):
    """Raises, or leaves items out, for adapters whose names begin in a given way."""

    faults: dict[str, Exception | str]

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        name = "base" if adapter is None else adapter.name
        fault = next((fault for start, fault in self.faults.items() if name.startswith(start)), None)
        if isinstance(fault, Exception):
            raise fault
        results = list(super().score(prepared, adapter))
        assert isinstance(prepared, WholeItems)
        if fault == "left out":
            results = results[:-1]
        elif fault == "twice":
            results.append(results[0])
        yield from results


class BrokenMaker(FakeMaker):
    """Makes scorers that break."""

    def __init__(self, **faults: Exception | str) -> None:
        super().__init__()
        self._faults = faults

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> FakeScorer:
        scorer = BrokenScorer()
        scorer.faults = self._faults
        self.opened.append(scorer)
        return scorer


@pytest.mark.parametrize(
    ("fault", "what", "reason"),
    [
        (RuntimeError("weights"), ["tiny s17 arc_challenge-de"], "RuntimeError: weights"),
        (ScoringError("bad item"), ALL_TARGETS, "bad item"),
        ("left out", ALL_TARGETS, "gave 2 of 3 items"),
        ("twice", ALL_TARGETS, "twice"),
    ],
    ids=["crash", "cells", "left out", "twice"],
)
def test_what_breaks_while_scoring_is_listed_and_tried_again(
    config: GridConfig, run: RunFolder, fault: Exception | str, what: list[str], reason: str
) -> None:
    report = sweep(config, run, BrokenMaker(**{"arc_challenge-de": fault}))
    assert [failure.what for failure in report.failures] == what
    assert all(reason in failure.reason for failure in report.failures)
    assert report.n_finished == 16
    assert sweep(config, run).is_complete


def test_a_broken_engine_is_not_taken_for_broken_adapters(config: GridConfig, run: RunFolder) -> None:
    maker = BrokenMaker(arc=RuntimeError("engine died"), global_mmlu=RuntimeError("engine died"))
    with pytest.raises(RuntimeError, match="engine died"):
        sweep(config, run, maker)
    assert len(read_failures(run.scores)) == 2
    assert maker.opened[0].is_closed
    assert stored_rows(run).height == 12  # the base was finished and is kept


def test_a_base_that_cannot_be_scored_stops_the_sweep(config: GridConfig, run: RunFolder) -> None:
    with pytest.raises(RuntimeError, match="engine died"):
        sweep(config, run, BrokenMaker(base=RuntimeError("engine died")))


class UnloadableMaker(FakeMaker):
    """Cannot load the model in a folder called ``plain``."""

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> FakeScorer:
        if model_folder.name == "plain":
            raise ValueError("architecture not supported")
        return super().open(model_folder, longest_tokens=longest_tokens, max_rank=max_rank)


def test_a_model_that_cannot_be_loaded_does_not_sink_the_others(
    config: GridConfig, run: RunFolder, tiny_llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "plain")
    plain = ModelConfig(path=str(tmp_path / "plain"), name="plain")
    both = config.model_copy(update={"models": (plain, *config.models)})
    report = sweep(both, run, UnloadableMaker(), narrowing={"sources": ("base",)})
    assert [(f.what, f.reason) for f in report.failures] == [("plain", "ValueError: architecture not supported")]
    assert (report.n_finished, report.n_cells) == (4, 8)
    with pytest.raises(ValueError, match="architecture not supported"):
        sweep(both, run, UnloadableMaker(), narrowing={"models": ("plain",)})


def test_an_interrupt_keeps_what_is_finished(config: GridConfig, run: RunFolder) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, CellFinished) and event.origin.source.name == "arc_challenge-en":
            raise KeyboardInterrupt

    maker = FakeMaker()
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, run, EvalRequest(), maker=maker, on_event=interrupt)
    assert maker.opened[0].is_closed
    assert stored_rows(run).height == 27  # 2 sources x 4 cells and one cell more, 3 items each
    assert sweep(config, run).totals.n_cells == 11


def test_a_second_sweep_on_the_folder_is_refused(config: GridConfig, run: RunFolder) -> None:
    with hold_run_folder(run.root, "grid eval"), pytest.raises(UserError, match="is in use by 'grid eval'"):
        sweep(config, run)


def test_a_full_disk_ends_the_sweep_with_a_sentence(
    config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, *args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FailureLog, "add", full)
    break_adapter(run, "missing")
    with pytest.raises(UserError, match=r"scores cannot be stored in .*No space left on device"):
        sweep(config, run)


def test_a_disk_that_is_full_before_anything_is_scored_ends_with_a_sentence(
    config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transfergrid.benchmarks.materialise.write_text", full)
    with pytest.raises(UserError, match=r"folder '.*data' cannot be written: .*No space left on device; make room"):
        sweep(config, run)


def test_another_os_error_keeps_its_traceback(
    config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ScoreStore, "scan", broken)
    with pytest.raises(OSError, match="Input/output error"):
        sweep(config, run)


def test_every_failure_is_told_as_it_happens(config: GridConfig, run: RunFolder) -> None:
    break_adapter(run, "missing")
    failed = [event.failure.what for event in events_of(config, run) if isinstance(event, Failed)]
    assert failed == ["tiny s17 arc_challenge-de"]
