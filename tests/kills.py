"""Sweeps in processes of their own that are killed at random moments until one of them gets to its end."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
MEMORY_BYTES = 9 * 2**30
"""Address space of a sweep: it must do with that of a small machine."""
Kill = dict[str, int]
"""What was finished when a sweep was killed: the inode of every file by its name."""


def kill_rounds(
    runs: Iterable[Path], sweep: Callable[[Path], None], pattern: str, *, n_kills: int, n_whole: int, wall_s: float
) -> list[list[Kill]]:
    """Kill sweeps on one run folder after another until enough kills fell with something at stake.

    Args:
        runs: Run folders; a further one is taken once a sweep is done on the last.
        sweep: Sweeps a run folder to its end; called in a forked process.
        pattern: Glob of the files in a run folder that show what is finished.
        n_kills: Kills to reach that fall while something is finished and something left.
        n_whole: Files of a finished run.
        wall_s: Wall time of an undisturbed sweep.

    Returns:
        For every run folder the kills that count.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    chance = random.Random(1)
    rounds: list[list[Kill]] = []
    for run in runs:
        kills: list[Kill] = []
        while _is_killed(lambda run=run: sweep(run), chance, wall_s):  # type: ignore[misc]
            finished = {str(path.relative_to(run)): path for path in run.glob(pattern)}
            if 0 < len(finished) < n_whole:
                kills.append({name: path.stat().st_ino for name, path in finished.items()})
            for path in finished.values():  # the clock was wrong, or is set back: times must decide nothing
                os.utime(path, (chance.choice((1e8, time.time(), 4e9)),) * 2)
        rounds.append(kills)
        if sum(map(len, rounds)) >= n_kills:
            break
    return rounds


def _is_killed(sweep: Callable[[], None], chance: random.Random, wall_s: float) -> bool:
    """Start a sweep and end it at a random moment; return whether it was still running then."""
    process = os.fork()
    if process == 0:
        try:
            sweep()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    time.sleep(chance.uniform(0.0, 0.5 * wall_s))
    os.kill(process, chance.choice(SIGNALS))
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"a sweep ended with status {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def run_killer(module: str, **job: Any) -> list[list[Kill]]:
    """Run ``python -m MODULE JOB`` and return the kills that it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(job)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr  # also of a sweep that was killed before it could exit
    rounds: list[list[Kill]] = json.loads(done.stdout.splitlines()[-1])
    return rounds


def assert_kept(kills: list[Kill], run: Path) -> None:
    """See that every file that was finished at a kill is still the same file."""
    for kill in kills:
        assert {name: (run / name).stat().st_ino for name in kill} == kill
