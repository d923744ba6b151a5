"""Scoring on a local Ray cluster of two workers: the table of one process, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.broken_makers import BrokenMaker, DeadlyFunction, DeadlyMultiLora, UnloadableMaker
from tests.engine.sweeps import FakeMaker, add_adapters, small_config, stored_rows
from transfergrid.config.settings import EngineConfig, GridConfig
from transfergrid.engine.cluster import driver as ray_eval
from transfergrid.engine.cluster.driver import do_on_cluster as score_on_cluster
from transfergrid.engine.cluster.ray_cluster import Cluster, ClusterOptions, connect
from transfergrid.engine.evaluation.events import CellFinished, Event, ModelOpened, Notice, SourceFinished
from transfergrid.engine.evaluation.summary import EvaluationReport
from transfergrid.engine.evaluation.sweep import evaluate, evaluate_on_cluster
from transfergrid.engine.interfaces import ScorerMaker
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import ScoreStore

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        with connect(ClusterOptions(address="local", n_workers=2)) as connected:
            yield connected


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    return small_config(tiny_llama, engine=EngineConfig(dtype="float32", max_loras=1, kv_cache_gib=0.1))


@pytest.fixture
def run(config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    add_adapters(config, folder, tiny_adapters[0])
    return folder


@pytest.fixture
def alone(config: GridConfig, run: RunFolder, tmp_path: Path) -> RunFolder:
    """The same run, scored in one process by the fake maker."""
    other = copy_adapters(run, tmp_path / "alone")
    assert evaluate(config, other, EvalRequest(), maker=FakeMaker()).is_complete
    return other


def copy_adapters(run: RunFolder, folder: Path) -> RunFolder:
    shutil.copytree(run.adapters, RunFolder(folder).adapters)
    return RunFolder(folder)


def score(
    cluster: Cluster, config: GridConfig, run: RunFolder, maker: ScorerMaker, **request: Any
) -> tuple[EvaluationReport, list[Event]]:
    seen: list[Event] = []
    execute = partial(score_on_cluster, cluster)
    report = evaluate(config, run, EvalRequest(**request), maker=maker, on_event=seen.append, execute=execute)
    return report, seen


@pytest.mark.parametrize("sees_run", [True, False])
def test_a_worker_that_is_killed_changes_nothing(
    sees_run: bool,
    cluster: Cluster,
    config: GridConfig,
    run: RunFolder,
    alone: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not sees_run:  # the driver writes no probe, so that no worker finds it
        monkeypatch.setattr(ray_eval, "write_text", lambda path, text: None)
    marker = tmp_path / "killed"
    report, seen = score(cluster, config, run, FakeMaker(DeadlyFunction("global_mmlu-de", marker)))
    assert marker.exists()
    assert report.is_complete, report.as_json()["failures"]
    assert stored_rows(run).equals(stored_rows(alone))
    assert sum(isinstance(event, CellFinished) for event in seen) == report.totals.n_cells == 20
    assert sum(isinstance(event, SourceFinished) for event in seen) == 5
    assert {event.model for event in seen if isinstance(event, ModelOpened)} == {"tiny in worker-0", "tiny in worker-1"}
    assert any("1 of 1 job(s) are left" in event.message for event in seen if isinstance(event, Notice))
    assert list(run.scores.glob(".*")) == list(run.root.glob(".probe*")) == []
    again, seen = score(cluster, config, run, FakeMaker())
    assert (again.is_complete, again.totals.n_cells) == (True, 0)


def test_a_run_is_begun_on_a_cluster_and_finished_without_and_the_reverse(
    cluster: Cluster, config: GridConfig, run: RunFolder, alone: RunFolder, tmp_path: Path
) -> None:
    from transfergrid.config.selection import Narrowing

    half = Narrowing(targets=("arc_challenge-de", "global_mmlu-en"))
    score(cluster, config, run, FakeMaker(), narrowing=half)
    assert evaluate(config, run, EvalRequest(), maker=FakeMaker()).totals.n_cells == 10
    assert stored_rows(run).equals(stored_rows(alone))
    other = copy_adapters(run, tmp_path / "other")
    evaluate(config, other, EvalRequest(narrowing=half), maker=FakeMaker())
    assert score(cluster, config, other, FakeMaker())[0].totals.n_cells == 10
    assert stored_rows(other).equals(stored_rows(alone))


def test_a_source_that_kills_every_worker_is_listed_and_the_others_are_scored(
    cluster: Cluster, config: GridConfig, run: RunFolder, alone: RunFolder, tmp_path: Path
) -> None:
    deadly = DeadlyFunction("global_mmlu-de", tmp_path / "killed", always=True)
    report, _ = score(cluster, config, run, FakeMaker(deadly))
    (failure,) = report.failures
    assert failure.what == "tiny s17 global_mmlu-de"
    assert failure.reason.startswith("given up after 3 attempts on 2 worker(s), the last time: Actor")
    assert (report.n_finished, report.n_cells) == (16, 20)
    assert score(cluster, config, run, FakeMaker())[0].is_complete
    assert stored_rows(run).equals(stored_rows(alone))


def test_a_model_that_no_worker_can_load_is_listed(cluster: Cluster, config: GridConfig, run: RunFolder) -> None:
    report, _ = score(cluster, config, run, UnloadableMaker())
    assert {failure.reason for failure in report.failures} == {"the model does not fit"}
    assert report.n_finished == 0


def test_a_cluster_that_fails_again_and_again_ends_the_sweep(
    cluster: Cluster, config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfergrid.engine.cluster.loop.MAX_FAILED_IN_A_ROW", 3)
    with pytest.raises(UserError, match=r"3 attempts in a row failed on .*: RuntimeError: the engine is broken; see"):
        score(cluster, config, run, BrokenMaker())


def test_the_noise_floor_is_left_to_one_process(config: GridConfig, run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"--noise-floor is measured by one process"):
        evaluate_on_cluster(config, run, EvalRequest(noise_floor=True), ClusterOptions(), maker=FakeMaker())


def test_vllm_in_two_workers_one_killed_gives_the_numbers_of_one_process(
    cluster: Cluster, config: GridConfig, run: RunFolder, tmp_path: Path
) -> None:
    marker = tmp_path / "killed"
    report, _ = score(cluster, config, run, DeadlyMultiLora(config.engine, marker))
    assert marker.exists()
    assert report.is_complete, report.as_json()["failures"]
    one = copy_adapters(run, tmp_path / "one")
    settings = tmp_path / "grid.yaml"
    settings.write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    command = [sys.executable, "-m", "transfergrid.cli", "eval", "--config", str(settings), "--run", str(one.root)]
    # threads as each of the two workers has them: the order of a sum depends on their number
    threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    differences = [
        abs(a - b)
        for ours, theirs in zip(*(stored_rows(each)["loglikelihoods_nats"] for each in (run, one)), strict=True)
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert max(differences) == 0.0
    assert stored_rows(run).equals(stored_rows(one))
    assert len(ScoreStore(run.scores).scan().finished()) == 20
