"""Training that is killed, or finds the disk full, again and again ends with the adapters of one that was left alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kills import assert_kept, run_killer
from tests.trainers.kill_trainings import N_ADAPTERS, kill_config, train_quickly
from tests.trainers.small_grid import everything, sweep, weights_hash
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.trainers import train_one
from transfergrid.trainers.plan import plan_training

pytestmark = pytest.mark.engine
N_KILLS = 30
"""Kills by SIGKILL and SIGTERM that fall while finished adapters are on the disk and others are left."""


def hashes(run: RunFolder) -> dict[str, str]:
    """Return a hash of every adapter of a run by its cell."""
    return {path.name: weights_hash(path) for path in (run.adapters / "tiny" / "s17").iterdir()}


def test_training_killed_at_random_moments_ends_as_if_it_had_not_been(tiny_llama: Path, tmp_path: Path) -> None:
    whole = RunFolder(tmp_path / "whole")
    rounds = run_killer("tests.trainers.kill_trainings", model=str(tiny_llama), whole=str(whole.root), n_kills=N_KILLS)
    assert sum(map(len, rounds)) >= N_KILLS
    assert len({len(kill) for kills in rounds for kill in kills}) > 3, "all kills found as much finished"
    config, expected = kill_config(tiny_llama), hashes(whole)
    assert len(expected) == len(set(expected.values())) == N_ADAPTERS
    for number, kills in enumerate(rounds):
        run = RunFolder(tmp_path / f"killed-{number}")
        assert_kept(kills, run.root)
        assert hashes(run) == expected
        assert not (run.root / ".unfinished").exists()
        assert [row[5] for row in plan_training(config, run, everything(config)).jobs] == ["finished"] * N_ADAPTERS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of some KiB in memory that can grow; returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with ExitStack() as stack:

        def resize(kib: int) -> Path:
            how = "remount," if folder.is_mount() else ""
            command = ["mount", "-t", "tmpfs", "-o", f"{how}size={kib}k", "tmpfs", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
            if not how:
                stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
            return folder

        yield resize


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_ends_in_a_sentence_and_the_training_goes_on_with_more_room(
    tiny_llama: Path, tmp_path: Path, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_one, "train_adapter", train_quickly)
    config, whole = kill_config(tiny_llama), RunFolder(tmp_path / "whole")
    sweep(config, whole)
    n_kib = sum(path.stat().st_size for path in whole.root.rglob("*") if path.is_file()) // 1024
    told: list[str] = []
    for kib in range(32, 3 * n_kib, n_kib // 25):
        run = RunFolder(small_disk(kib))
        try:
            sweep(config, run)
            break
        except UserError as error:
            told.append(str(error))
    assert len(told) >= 20
    assert all(text.isprintable() and "No space left on device" in text for text in told), told
    assert all("make room or" in text for text in told), told
    assert any("cannot be saved" in text for text in told)
    assert hashes(run) == hashes(whole)
    assert not (run.root / ".unfinished").exists()
