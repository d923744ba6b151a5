"""One process per run folder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transfergrid.grid import UserError
from transfergrid.store.lock import HOLDER_FILE, hold_run_folder

HOLD = (
    "import sys, time, pathlib; from transfergrid.store.lock import hold_run_folder\n"
    "with hold_run_folder(pathlib.Path(sys.argv[1]), 'grid eval'):\n"
    "    print('held', flush=True); time.sleep(60)"
)


def hold_elsewhere(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_refuses_and_says_who_holds_the_folder(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path)
    try:
        expected = rf"is in use by 'grid eval', process {process.pid} on .+ since 20.+; wait until it is done"
        with pytest.raises(UserError, match=expected), hold_run_folder(tmp_path, "grid eval"):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_killed_process_lets_go_of_the_folder(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with hold_run_folder(tmp_path, "grid eval"):
        pass


def test_a_killed_process_whose_child_lives_on_for_a_moment_lets_go_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfergrid.store.lock._PATIENCE_S", 60.0)  # a moment may be long on a busy machine
    hold = HOLD.replace("print(", "import os; os.fork() or (time.sleep(0.3), os._exit(0)); print(")
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        with hold_run_folder(tmp_path, "grid eval"):
            pass


def test_a_holder_that_has_not_said_who_it_is_yet_is_still_refused(tmp_path: Path) -> None:
    process = hold_elsewhere(tmp_path)
    (tmp_path / HOLDER_FILE).unlink()
    try:
        with pytest.raises(UserError, match="a process that has just started"), hold_run_folder(tmp_path, "x"):
            pass
    finally:
        process.kill()
        process.wait()


def test_the_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="x"), hold_run_folder(tmp_path, "grid eval"):
        raise ZeroDivisionError("x")
    with hold_run_folder(tmp_path, "grid eval"):
        assert (tmp_path / HOLDER_FILE).is_file()
    assert not (tmp_path / HOLDER_FILE).exists()


def test_a_run_folder_that_cannot_be_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with (
        pytest.raises(UserError, match=r"folder '.*file/run' cannot be written: .*Not a directory"),
        hold_run_folder(tmp_path / "file" / "run", "grid eval"),
    ):
        pass


def test_a_disk_that_is_full_when_the_holder_is_noted_is_told_and_the_folder_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transfergrid.store.lock.write_json", full)
        with (
            pytest.raises(UserError, match=r"cannot be written: .*No space left on device; make room"),
            hold_run_folder(tmp_path, "grid eval"),
        ):
            pass
    with hold_run_folder(tmp_path, "grid eval"):
        pass
