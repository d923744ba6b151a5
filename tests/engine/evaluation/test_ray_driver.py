"""What the driver of a cluster hands out again when a worker dies; no cluster is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from transfergrid.engine.cluster.units import Unit
from transfergrid.engine.evaluation.events import Event, Failed
from transfergrid.engine.evaluation.on_cluster import _Driver
from transfergrid.engine.work.failures import Failure
from transfergrid.engine.work.jobs import SourceJob
from transfergrid.grid import Cell, Source
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
    task: Any = SimpleNamespace(tell=told.append, store=ScoreStore(tmp_path))
    driver = _Driver(None, task)  # type: ignore[arg-type]
    origins = [Origin("m", Source.parse(name, 17)) for name in SOURCES]
    unit = Unit("m", tuple(SourceJob(origin, None, RunKey({}), TARGETS) for origin in origins), 1.0)
    driver._take_in(Failed(Failure(model="m", seed=17, source=SOURCES[0], target=target, reason="x")))
    assert [(job.origin.source.name, job.targets) for job in driver._left(unit)] == left
    assert len(told) == 1
