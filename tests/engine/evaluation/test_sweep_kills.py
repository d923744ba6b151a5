"""A sweep that is killed again and again ends with the table of one that was left alone."""

from __future__ import annotations

from pathlib import Path

from polars.testing import assert_frame_equal

from tests.engine.kill_sweeps import LANGUAGES
from tests.engine.sweeps import add_adapters, small_config, stored_rows
from tests.kills import assert_kept, run_killer
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import INDEX_FILE, ScoreStore

N_KILLS = 30
"""Kills by SIGKILL and SIGTERM that fall while finished parts are on the disk and cells are left."""


def test_a_sweep_killed_at_random_moments_ends_as_if_it_had_not_been(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    whole = RunFolder(tmp_path / "whole")
    add_adapters(small_config(tiny_llama, languages=LANGUAGES), whole, tiny_adapters[0])
    rounds = run_killer("tests.engine.kill_sweeps", model=str(tiny_llama), whole=str(whole.root), n_kills=N_KILLS)
    expected = stored_rows(whole)
    assert expected.height == 7 * 6 * 3
    assert sum(map(len, rounds)) >= N_KILLS
    assert len({len(kill) for kills in rounds for kill in kills}) > 3, "all kills found as much finished"
    for number, kills in enumerate(rounds):
        run = RunFolder(tmp_path / f"killed-{number}")
        assert_kept(kills, run.root)
        assert_frame_equal(stored_rows(run), expected, check_exact=True)
        told = ScoreStore(run.scores).scan()
        assert told.set_aside == ()
        assert list(run.scores.glob(".*")) == []
        (run.scores / INDEX_FILE).unlink()
        assert ScoreStore(run.scores).scan() == told, "the index says something else than the parts"


def test_an_adaptive_sweep_killed_between_slices_and_in_one_ends_as_if_it_had_not_been(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    whole = RunFolder(tmp_path / "whole")
    add_adapters(small_config(tiny_llama, languages=LANGUAGES), whole, tiny_adapters[0])
    rounds = run_killer(
        "tests.engine.kill_sweeps", model=str(tiny_llama), whole=str(whole.root), n_kills=8, adaptive=True
    )
    expected = stored_rows(whole)
    assert 7 * 6 * 4 < expected.height < 7 * 6 * 16, "no pair was stopped, or all of them at once"
    for number, kills in enumerate(rounds):
        run = RunFolder(tmp_path / f"killed-{number}")
        assert_kept(kills, run.root)
        assert_frame_equal(stored_rows(run), expected, check_exact=True)
