"""Training that is killed again and again ends with the adapters of one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills import assert_kept, run_killer
from tests.trainers.kill_trainings import N_ADAPTERS, kill_config
from tests.trainers.small_grid import everything, weights_hash
from transfergrid.store.folder import RunFolder
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
