"""What of scoring is given out again when a worker dies, and an executor of the test's own; no cluster is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.sweeps import FakeMaker, add_adapters, small_config, stored_rows
from tests.executors import do_elsewhere
from transfergrid.engine.cluster.driver import do_here
from transfergrid.engine.cluster.units import Unit
from transfergrid.engine.evaluation.events import Event, Failed, ModelOpened
from transfergrid.engine.evaluation.on_cluster import _Intake
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.work.failures import Failure
from transfergrid.engine.work.request import EvalRequest
from transfergrid.engine.work.source_jobs import SourceJob
from transfergrid.grid import Cell, Source
from transfergrid.store.folder import RunFolder
from transfergrid.store.key import RunKey
from transfergrid.store.score_store import Origin, ScoreStore

TARGETS = tuple(Cell("arc_challenge", language) for language in ("de", "en", "fr"))
SOURCES = ("hellaswag-de", "hellaswag-en")


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("arc_challenge-de", [(SOURCES[0], TARGETS[1:]), (SOURCES[1], TARGETS)]),
        (None, [(SOURCES[1], TARGETS)]),
    ],
)
def test_a_failure_takes_no_more_than_itself_out_of_the_unit(
    target: str | None, left: list[tuple[str, tuple[Cell, ...]]], tmp_path: Path
) -> None:
    told: list[Event] = []
    intake = _Intake(ScoreStore(tmp_path), told.append)
    origins = [Origin("m", Source.parse(name, 17)) for name in SOURCES]
    unit = Unit("m", tuple(SourceJob(origin, None, RunKey({}), TARGETS) for origin in origins), 1.0)
    intake.take_in(Failed(Failure(model="m", seed=17, source=SOURCES[0], target=target, reason="x")))
    assert [(job.origin.source.name, job.targets) for job in intake.left(unit)] == left
    assert len(told) == 1


def test_another_executor_stores_the_same_scores(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    config, runs = small_config(tiny_llama), [RunFolder(tmp_path / name) for name in ("here", "elsewhere")]
    told: list[Event] = []
    for run, execute in zip(runs, (do_here, do_elsewhere), strict=True):
        add_adapters(config, run, tiny_adapters[0])
        report = evaluate(config, run, EvalRequest(), maker=FakeMaker(), on_event=told.append, execute=execute)
        assert report.is_complete
    assert stored_rows(runs[0]).equals(stored_rows(runs[1]))
    assert [event.model for event in told if isinstance(event, ModelOpened)] == ["tiny", "tiny in elsewhere"]
