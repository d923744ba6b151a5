"""Sweeps that end early: no room, a second sweep in the folder, kill -9, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainers.small_grid import ENGLISH, SPANISH, adapter, everything, make_config, sweep, weights_hash
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder
from transfergrid.trainers import adapter_folder
from transfergrid.trainers.plan import plan_training

pytestmark = pytest.mark.engine


def test_full_disk_ends_the_sweep_and_leaves_nothing_half_written(
    config: GridConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunFolder(tmp_path)
    monkeypatch.setattr(adapter_folder, "write_json", full)
    with pytest.raises(UserError, match=r"'tiny s17 arc_challenge-en' cannot be saved .*No space left on device"):
        sweep(config, run)
    assert not list(tmp_path.rglob("adapter_config.json"))
    assert not (tmp_path / ".unfinished").exists()
    monkeypatch.undo()
    assert len(sweep(config, run).finished) == 2


def test_weights_that_the_system_refuses_to_write_are_told_in_one_sentence(
    config: GridConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a limit on the size of files stands in for a full disk: both are refused writes inside safetensors
    from peft import PeftModel

    save, before = PeftModel.save_pretrained, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_with_little_room(self: Any, folder: str, **kwargs: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            save(self, folder, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(PeftModel, "save_pretrained", save_with_little_room)
    with pytest.raises(UserError, match=r"'tiny s17 arc_challenge-en' cannot be saved .*File too large.*; make room"):
        sweep(config, RunFolder(tmp_path))
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize("blocked", [".unfinished", "adapters"])
def test_folders_that_cannot_be_made_are_told_in_one_sentence(blocked: str, config: GridConfig, tmp_path: Path) -> None:
    (tmp_path / blocked).write_text("a file where a folder is needed", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be saved under .*; make room or make it writable"):
        sweep(config, RunFolder(tmp_path))


def test_two_sweeps_in_one_folder_are_refused(config: GridConfig, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from transfergrid.store.lock import hold_run_folder; import sys\n"
        f"with hold_run_folder(Path({str(tmp_path)!r}), 'x'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is in use by 'x'"):
            sweep(config, RunFolder(tmp_path))
        holder.communicate()
    with hold_run_folder(tmp_path, "y"):
        pass


def test_a_run_folder_that_cannot_be_written_ends_the_sweep_with_a_sentence(config: GridConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"folder '.*file/run' cannot be written: .*; make room or give write access"):
        sweep(config, RunFolder(tmp_path / "file" / "run"))


KILLED_SWEEPS = """
import os, signal, sys
from pathlib import Path
import yaml
from peft import PeftModel
from transfergrid.config.selection import Narrowing, select
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.trainers import adapter_folder
from transfergrid.trainers.sweep import train_adapters

config = GridConfig.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text()))

def train(run, point, when):
    owner, _, name = point.rpartition(".")
    target = {"folder": adapter_folder, "peft": PeftModel}[owner]
    original, calls = getattr(target, name), 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if when == "before" and calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if when == "after" and calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(target, name, deadly)
    train_adapters(config, RunFolder(Path(run)), select(config, Narrowing()))

for job in sys.argv[2:]:
    if os.fork() == 0:
        train(*job.split("|"))
        os._exit(0)
    print(os.wait()[1])
"""
KILLS = {
    "peft.save_pretrained|after": 1,  # weights of the second adapter written, nothing else
    "folder.move_into_place|before": 1,  # all its files written, not moved
    "folder.move_into_place|after": 2,  # moved
}
"""Where and when a sweep is killed at its second adapter, and how many adapters it leaves."""


@pytest.fixture(scope="module")
def killed(config: GridConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """What each killed sweep left: processes forked of one, which has imported everything."""
    root = tmp_path_factory.mktemp("killed")
    (root / "grid.yaml").write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    runs = {kill: RunFolder(root / str(number)) for number, kill in enumerate(KILLS)}
    jobs = [f"{run.root}|{kill}" for kill, run in runs.items()]
    command = [sys.executable, "-c", KILLED_SWEEPS, str(root / "grid.yaml"), *jobs]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == [str(int(signal.SIGKILL))] * 3, done.stderr
    return runs


@pytest.mark.parametrize(("kill", "n_left"), KILLS.items())
def test_a_sweep_killed_while_saving_goes_on_and_takes_nothing_half_written(
    kill: str, n_left: int, config: GridConfig, finished: RunFolder, killed: dict[str, RunFolder]
) -> None:
    run = killed[kill]
    assert len(list(run.adapters.rglob("adapter_config.json"))) == n_left
    stamp = (adapter(run) / "training.json").stat().st_mtime_ns
    summary = sweep(config, run)
    assert (len(summary.kept), len(summary.finished)) == (n_left, 2 - n_left)
    assert (adapter(run) / "training.json").stat().st_mtime_ns == stamp
    assert not (run.root / ".unfinished").exists()
    for cell in (ENGLISH, SPANISH):
        assert weights_hash(adapter(run, cell)) == weights_hash(adapter(finished, cell))


def test_ctrl_c_ends_with_one_sentence_and_the_same_command_goes_on(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(tiny_llama, languages=("en", "es", "fr", "de"), epochs=40)
    settings, run = tmp_path / "grid.yaml", RunFolder(tmp_path / "run")
    settings.write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    code = "from transfergrid.cli import main; main()"
    command = [sys.executable, "-c", code, "train-adapters", "--config", str(settings), "--run", str(run.root)]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        while "[1/4]" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "grid: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in errors
    assert not (run.root / ".unfinished").exists()
    n_finished = len(list(run.adapters.rglob("training.json")))
    assert 1 <= n_finished < 4
    plan = plan_training(config, run, everything(config))
    assert [row[5] for row in plan.jobs] == ["finished"] * n_finished + ["to do"] * (4 - n_finished)
