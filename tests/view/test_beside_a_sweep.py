"""The page beside a sweep: parts land, the sweep is killed, and its store is written anew, while pages are asked for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.engine.kill_sweeps import LANGUAGES
from tests.engine.sweeps import add_adapters, small_config
from tests.kills import ROOT
from tests.view.pages import TOKEN
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.view.app import PAGES, link, make_app
from transfergrid.view.pages import View
from transfergrid.view.status import read_status

N_CELLS = 7 * 6
OF = {
    "model": "tiny",
    "source": "arc_challenge-de",
    "seed": 17,
    "target": "arc_challenge-en",
    "other": "arc_challenge-hi",
}
NOT_YET = ("the run has no scores of items yet", "no scores of source", "no item ", "has no seed 17")
SWEEP = """
import sys, time
from pathlib import Path
from tests.engine import kill_sweeps as sweeps
from transfergrid.engine.evaluation import sweep
scored = sweeps.hashed_loglikelihood
def slow(item, choice, adapter):
    time.sleep(0.003)
    return SIGN * scored(item, choice, adapter) - 20.0
sweeps.slow_loglikelihood = slow
if IS_FORCED:
    whole = sweep.EvalRequest
    sweep.EvalRequest = lambda **given: whole(force=True, **given)
sweeps.sweep_once(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@contextmanager
def sweeping(model: Path, run: RunFolder, *, sign: int, is_forced: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Sweep in a process of its own, some seconds; every answer is another one where the sign is."""
    code = SWEEP.replace("SIGN", str(sign)).replace("IS_FORCED", str(is_forced))
    process = subprocess.Popen([sys.executable, "-c", code, str(model), str(run.root)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Visitor:
    """Opens pages as a browser does."""

    def __init__(self, run: RunFolder, config: GridConfig) -> None:
        app = make_app(View(run, config), token=TOKEN)
        self.client = TestClient(app, base_url="http://127.0.0.1:8321")  # raises what would be a traceback
        self.client.get(f"/?token={TOKEN}")
        self.view = View(run, config)

    def look(self, pages: Sequence[str] = PAGES) -> int:
        """Open pages, each shows something or says what is not there yet; return the number of finished cells."""
        for page in pages:
            answer = self.client.get(link("" if page == "overview" else page, **OF, task="arc_challenge", item="any"))
            assert answer.status_code in (200, 404)
            assert answer.status_code == 200 or any(said in answer.text for said in NOT_YET), answer.text
            assert "unreadable" not in answer.text
        return read_status(self.view.run, self.view.config).progress[1].done

    def look_while(self, process: subprocess.Popen[bytes], until: int = N_CELLS + 1) -> list[int]:
        """Open one page after another until so many cells are finished or the sweep has ended; return their numbers."""
        seen = [0]
        for page in cycle(PAGES):
            if process.poll() is not None or seen[-1] >= until:
                return seen
            seen.append(self.look([page]))
            time.sleep(0.1)  # the sweep needs the processors, too
        return seen


def numbers(view: View) -> str:
    """Return what the matrix and a pair say, as far as they are there."""
    pair = view.page("pair", {name: str(value) for name, value in OF.items()}).table
    return view.page("matrix", {}).table.write_csv() + pair.select("item_id", "change", "gold_change").write_csv()


@pytest.fixture
def run(tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    add_adapters(small_config(tiny_llama, languages=LANGUAGES), run, tiny_adapters[0])
    return run


def test_pages_follow_a_sweep_that_is_killed_and_one_that_scores_all_again(run: RunFolder, tiny_llama: Path) -> None:
    config = small_config(tiny_llama, languages=LANGUAGES)
    visitor = Visitor(run, config)
    with sweeping(tiny_llama, run, sign=1) as process:
        seen = visitor.look_while(process, until=1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert seen == sorted(seen)
    assert 0 < visitor.look() < N_CELLS
    assert 'http-equiv="refresh"' in visitor.client.get("/").text
    before = visitor.view.items.base_scores()
    with sweeping(tiny_llama, run, sign=-1, is_forced=True) as process:
        seen = visitor.look_while(process)
        assert process.wait() == 0
    assert len(set(seen)) > 2
    assert visitor.look() == N_CELLS
    assert 'http-equiv="refresh"' not in visitor.client.get("/").text
    assert numbers(visitor.view) == numbers(View(run, config))
    assert not visitor.view.items.base_scores().equals(before)
