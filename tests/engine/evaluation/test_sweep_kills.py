"""A sweep that is killed again and again ends with the table of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from polars.testing import assert_frame_equal

from tests.engine.kill_sweeps import LANGUAGES
from tests.engine.sweeps import add_adapters, small_config, stored_rows
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import ScoreStore

ROOT = Path(__file__).parents[3]
N_KILLS = 24


def run_killer(tmp_path: Path, **job: Any) -> list[list[int]]:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.kill_sweeps", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rounds: list[list[int]] = json.loads(done.stdout)
    return rounds


def test_a_sweep_killed_at_random_moments_ends_as_if_it_had_not_been(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    whole = RunFolder(tmp_path / "whole")
    add_adapters(small_config(tiny_llama, languages=LANGUAGES), whole, tiny_adapters[0])
    rounds = run_killer(tmp_path, model=str(tiny_llama), whole=str(whole.root), n_kills=N_KILLS, seed=1)
    expected = stored_rows(whole)
    assert expected.height == 7 * 6 * 3
    assert sum(map(len, rounds)) >= N_KILLS
    assert len({parts for kills in rounds for parts in kills}) > 3, "all kills came before or after the scoring"
    for number in range(len(rounds)):
        run = RunFolder(tmp_path / f"killed-{number}")
        assert_frame_equal(stored_rows(run), expected, check_exact=True)
        assert ScoreStore(run.scores).scan().set_aside == ()
        assert list(run.scores.glob(".*")) == []
