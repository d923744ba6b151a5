"""``grid eval`` and ``grid plan`` as a user meets them, on a maker without a model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.engine.sweeps import SEED, FakeMaker, add_adapters, copy_adapter, small_config, stored_rows, write_config
from transfergrid.cli import main
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.evaluation import engines
from transfergrid.engine.scorers import multi_lora, sequential
from transfergrid.engine.work.request import ChosenEngine, EngineOptions, EvalRequest
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder
from transfergrid.store.score_store import ScoreStore

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def run(tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    """A run folder with adapters, and ``grid.yaml`` beside it."""
    config = small_config(tiny_llama)
    write_config(tiny_llama, tmp_path / "grid.yaml")
    folder = RunFolder(tmp_path / "run")
    add_adapters(config, folder, tiny_adapters[0])
    return folder


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> FakeMaker:
    """Takes the place of both ways."""
    fake = FakeMaker()
    monkeypatch.setattr(multi_lora, "MultiLora", lambda config: fake)
    monkeypatch.setattr(sequential, "Sequential", lambda config: FakeMaker(way="sequential"))
    return fake


def grid(run: RunFolder, *arguments: str) -> Result:
    config = run.root.parent / "grid.yaml"
    command, *options = arguments
    return CliRunner().invoke(main, [command, "--config", str(config), "--run", str(run.root), *options])


def test_eval_scores_the_grid_and_exits_with_0(run: RunFolder, maker: FakeMaker) -> None:
    result = grid(run, "eval", "--multi-lora")
    assert result.exit_code == 0, result.output
    assert "Baseline of tiny, score in %" in result.output
    assert "tiny.s17.global_mmlu-en: 5 of 5 sources, 20 of 20 cells" in result.output
    assert "20 of 20 cells are in the store" in result.output


def test_eval_exits_with_1_and_names_what_failed(run: RunFolder, maker: FakeMaker) -> None:
    shutil.rmtree(run.adapter("tiny", SEED, Cell("arc_challenge", "de")))
    result = grid(run, "eval")
    assert result.exit_code == 1
    assert "failed: tiny s17 arc_challenge-de: no adapter of that name in" in result.output


def test_eval_prints_json_alone_on_standard_output(run: RunFolder, maker: FakeMaker) -> None:
    result = grid(run, "eval", "--json", "--source", "base", "--target", "arc_challenge-de")
    found = json.loads(result.stdout)
    assert (found["is_complete"], found["n_cells"], found["n_items"]) == (True, 1, 3)
    assert found["baselines"][0]["target_language"] == "de"
    assert "tiny.base: 1 of 1 sources" in result.stderr


def test_eval_refuses_another_setup_in_one_sentence(run: RunFolder, maker: FakeMaker) -> None:
    grid(run, "eval", "--source", "base")
    maker.version = "2"
    result = grid(run, "eval", "--source", "base")
    assert result.exit_code == 1
    assert result.stderr.startswith("grid: 4 finished cell(s)")
    assert grid(run, "eval", "--source", "base", "--force").exit_code == 0


def test_eval_the_sequential_way(run: RunFolder, maker: FakeMaker) -> None:
    assert grid(run, "eval", "--sequential", "--source", "base").exit_code == 0
    assert maker.opened == []


def test_eval_measures_the_noise_floor(run: RunFolder, maker: FakeMaker) -> None:
    assert grid(run, "eval", "--noise-floor", "--source", "base").exit_code == 0
    assert list(run.noise_floor.glob("tiny.*.parquet"))


def test_eval_of_adapters_from_elsewhere(
    run: RunFolder, maker: FakeMaker, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    copy_adapter(tiny_adapters[0], theirs / "xnli_sw_3", note="theirs")
    options = ["--adapters", str(theirs), "--adapter-pattern", "{task}_{language}_{seed}"]
    result = grid(run, "eval", *options, "--json")
    assert json.loads(result.stdout)["n_cells"] == 8
    assert list(run.scores.glob("tiny.s3.xnli-sw.*.parquet"))


@pytest.mark.parametrize("command", ["plan", "eval"])
def test_names_of_adapters_from_elsewhere_without_their_folder_are_refused(
    run: RunFolder, maker: FakeMaker, tmp_path: Path, command: str
) -> None:
    table = tmp_path / "cells.csv"
    table.write_text("path,task,language\na,xnli,sw\n", encoding="utf-8")
    for options in (["--adapter-table", str(table)], ["--adapter-pattern", "{task}_{language}"]):
        result = grid(run, command, *options)
        assert result.exit_code == 1
        assert f"{options[0]} {options[1]!r} is about adapters from elsewhere; give --adapters too" in result.stderr
    assert maker.opened == []


@pytest.mark.parametrize("command", [["plan"], ["eval", "--dry-run"]])
def test_plan_and_dry_run_score_nothing(run: RunFolder, maker: FakeMaker, command: list[str]) -> None:
    result = grid(run, *command)
    assert result.exit_code == 0, result.output
    assert "requests (item x choice)" in result.output
    assert maker.opened == []
    assert not run.scores.exists()
    found = json.loads(grid(run, *command, "--json", "--source", "base").stdout)
    assert found["models"][0]["n_cells"] == 4


def test_plan_exits_with_1_without_the_model(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "models": ["./nowhere"]}), encoding="utf-8")
    result = grid(run, "plan")
    assert result.exit_code == 1
    assert "nowhere: model folder" in result.output


def test_a_second_eval_says_who_holds_the_run(run: RunFolder, maker: FakeMaker) -> None:
    with hold_run_folder(run.root, "grid eval"):
        result = grid(run, "eval")
    assert result.exit_code == 1
    assert f"is in use by 'grid eval', process {os.getpid()}" in result.stderr


def test_ctrl_c_ends_with_a_message_and_keeps_what_is_finished(run: RunFolder, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from tests.engine.sweeps import FakeMaker\n"
        "from transfergrid.engine.scorers import multi_lora\n"
        "from tests.engine import fake_scorer as fake\n"
        "def slow(item, choice, adapter):\n"
        "    time.sleep(0.02 if adapter is None else 0.5)\n"
        "    return fake.hashed_loglikelihood(item, choice, adapter)\n"
        "multi_lora.MultiLora = lambda config: FakeMaker(slow)\n"
        "from transfergrid.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["eval", "--config", str(tmp_path / "grid.yaml"), "--run", str(run.root)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "tiny.base: 1 of 5 sources" not in process.stdout.readline():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on where it stopped" in stderr
    assert list(run.scores.glob("tiny.base.*.parquet"))


def test_one_more_engine_is_one_more_entry_of_the_registry(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMaker(way="fake")
    monkeypatch.setitem(engines.ENGINES, "fake", lambda config, request, _: ChosenEngine(fake, config, request))
    options = ["eval", "--config", str(run.root.parent / "grid.yaml"), "--run", str(run.root), "--json"]
    done = CliRunner().invoke(main, [*options, "--engine", "fake"])
    assert done.exit_code == 0, done.output
    assert len(fake.opened) == 1
    assert stored_rows(run).height == 60


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--engine", "vlm"], "unknown engine 'vlm'; did you mean 'vllm'?; expected one of"),
        (["--engine", "vllm", "--sequential"], "--sequential and --engine vllm are two ways to score"),
        (["--engine", "vllm", "--server", "http://x"], "leave out --sequential and --engine"),
        (["--engine", "server"], "give its address with --server URL"),
        (["--server", "http://x", "--ray"], "give one of the two"),
    ],
)
def test_an_engine_that_cannot_be_meant_is_refused(options: list[str], reason: str, run: RunFolder) -> None:
    config = str(run.root.parent / "grid.yaml")
    done = CliRunner().invoke(main, ["eval", "--config", config, "--run", str(run.root), *options])
    assert done.exit_code == 1
    assert reason in done.output


def test_the_reference_scores_as_a_user_s_choice(run: RunFolder) -> None:
    options = ["eval", "--config", str(run.root.parent / "grid.yaml"), "--run", str(run.root)]
    narrow = ["--source", "base", "--source", "arc_challenge-de", "--target", "arc_challenge-en"]
    done = CliRunner().invoke(main, [*options, "--engine", "reference", *narrow])
    assert done.exit_code == 0, done.output
    parts = ScoreStore(run.scores).scan().parts
    assert {part.key_parts["engine"]["way"] for part in parts} == {"reference"}
    assert {part.key_parts["model"]["dtype"] for part in parts} == {"float32"}


@pytest.mark.parametrize("engine", [{"dtype": "bfloat16"}, {"quantization": "fp8"}])
def test_the_reference_refuses_another_number_format(engine: dict[str, str], tiny_llama: Path) -> None:
    config = small_config(tiny_llama, engine=EngineConfig(**engine))
    with pytest.raises(UserError, match="--engine reference computes in float32"):
        engines.choose_engine(config, EvalRequest(), EngineOptions("reference"))


def test_adaptive_is_planned_and_says_where_it_can_stop_nothing(run: RunFolder, maker: FakeMaker) -> None:
    alone = grid(run, "eval", "--max-items", "5")
    assert (alone.exit_code, alone.output.splitlines()[-1]) == (
        1,
        "grid: --max-items 5 is about pairs that may stop early; give --adaptive too",
    )
    planned = grid(run, "plan", "--adaptive")
    assert "adaptive: 100% of the adapters' items are expected to be scored" in " ".join(planned.output.split())
    scored = grid(run, "eval", "--adaptive")
    assert scored.exit_code == 0, scored.output
    assert "--adaptive stops no pair here: no target has more than 100 items to score" in scored.output
    assert json.loads(grid(run, "eval", "--adaptive", "--json").stdout)["adaptive"] is None
