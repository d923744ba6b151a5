"""What there is to do, cut into units, and which worker gets the next one; knows nothing of Ray, models or time.

The words of this folder: a *job* has a result of its own (an adapter to train, a source to score). A *unit* is jobs of
one base model that a worker does one after another. A *worker* is a process that holds one base model; its *runner*
does the units. The *driver* is the process that holds the run folder and takes in what workers send.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from transfergrid.engine.cluster.host import MakeRunner

Job = TypeVar("Job")

UNITS_PER_WORKER = 4
"""A worker does at least about so many units, so that the last ones end at about the same time."""
MAX_UNIT_JOBS = 8
"""Most jobs of a unit: what is given to another worker when one dies."""
MAX_ATTEMPTS = 3
"""Times that a unit is tried before it is given up."""


@dataclass(frozen=True, slots=True)
class Unit(Generic[Job]):
    """Jobs of one model and seed that one worker does one after another."""

    model: str
    jobs: tuple[Job, ...]
    cost: float
    """Expected work, in any unit that is the same for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Generic[Job]):
    """Jobs that are left, and what an executor needs to have them done; scoring and training make one each."""

    root: Path
    """The run folder."""
    jobs: Mapping[str, Sequence[Job]]
    """By model, in the order in which they are to be done."""
    do: Callable[[str, Sequence[Job]], None]
    """Does jobs of one model in this process."""
    seed: Callable[[Job], int | None]
    """Training seed of a job; None: it has none."""
    cost: Callable[[Job], float]
    """Expected work of a job, in any unit that is the same for all jobs."""
    make_runner: MakeRunner
    """Makes the runner of a worker."""
    pack: Callable[[Unit[Job], bool], Any]
    """Returns what is sent to a worker for a unit; the flag says whether the worker sees the run folder."""
    take_in: Callable[[Any], None]
    """Takes in whatever a runner sends; what a dead worker had not stored comes a second time."""
    left: Callable[[Unit[Job]], Sequence[Job]]
    """Jobs of a unit that are neither finished nor failed."""
    give_up: Callable[[Job, str], None]
    """Notes why no worker could do a job."""
    note: Callable[[str], None]
    """Shows a message to the reader."""
    check: Callable[[], None] = lambda: None
    """Called now and then; raises to stop."""


class GivenUp(NamedTuple, Generic[Job]):
    """A unit that no worker could finish."""

    unit: Unit[Job]
    reason: str


def group_units(
    groups: Mapping[tuple[str, int | None], Sequence[Job]], cost: Callable[[Job], float], *, n_workers: int
) -> list[Unit[Job]]:
    """Cut the jobs of every (model, seed) into units, smaller ones of large models."""
    largest = sum(cost(job) for jobs in groups.values() for job in jobs) / (UNITS_PER_WORKER * n_workers)
    units = []
    for (model, _), jobs in groups.items():
        n_wanted = math.ceil(sum(map(cost, jobs)) / largest) if largest else 1
        n_units = min(len(jobs), max(n_wanted, -(-len(jobs) // MAX_UNIT_JOBS)))
        for index in range(n_units):
            own = tuple(jobs[index * len(jobs) // n_units : (index + 1) * len(jobs) // n_units])
            units.append(Unit(model, own, sum(map(cost, own))))
    return units


@dataclass(slots=True)
class _Entry(Generic[Job]):
    """A unit that waits or runs, and what happened to it so far."""

    unit: Unit[Job]
    n_attempts: int = 0
    tried: set[str] = field(default_factory=set)


class UnitQueue(Generic[Job]):
    """Hands units to workers so that bases are not reloaded needlessly.

    A worker keeps its model while a unit of it is left. Else it takes the model with the most work left per worker that
    holds it. A unit that failed goes to another worker where there is one.
    """

    def __init__(self, units: Iterable[Unit[Job]], *, max_attempts: int = MAX_ATTEMPTS) -> None:
        self.given_up: list[GivenUp[Job]] = []
        self.n_failed_in_a_row = 0
        """Attempts that failed since a unit was last finished."""
        self.n_loads = 0
        """Times that a worker was given another model than it held."""
        self._waiting: dict[str, deque[_Entry[Job]]] = {}
        self._running: dict[str, _Entry[Job]] = {}
        self._held: dict[str, str | None] = {}
        self._refusals: dict[tuple[str, str], str] = {}
        self._max_attempts = max_attempts
        for unit in units:
            self._waiting.setdefault(unit.model, deque()).append(_Entry(unit))

    @property
    def n_waiting(self) -> int:
        """Units that no worker has."""
        return sum(map(len, self._waiting.values()))

    @property
    def workers(self) -> tuple[str, ...]:
        """Workers that are present."""
        return tuple(self._held)

    def join(self, worker: str) -> None:
        """Count a worker as present, holding no model."""
        self._held[worker] = None

    def leave(self, worker: str) -> None:
        """Count a worker as gone; its unit must have been taken from it before."""
        self._held.pop(worker, None)

    def take(self, worker: str) -> Unit[Job] | None:
        """Return the next unit for an idle worker; None if there is none it should do."""
        held = self._held[worker]
        models = sorted(self._waiting, key=lambda model: (model != held, -self._work_per_holder(model)))
        for model in models:
            for entry in self._waiting[model]:
                if self._suits(entry, worker):
                    self._waiting[model].remove(entry)
                    self.n_loads += model != held
                    self._held[worker] = model
                    self._running[worker] = entry
                    return entry.unit
        return None

    def finish(self, worker: str) -> None:
        """Note that a worker has done its unit."""
        del self._running[worker]
        self.n_failed_in_a_row = 0

    def fail(self, worker: str, reason: str, *, left: Sequence[Job]) -> None:
        """Note that a worker's unit failed, or the worker with it.

        What is left of it waits for others job by job, so that a job that breaks workers takes no other along.
        """
        entry = self._running.pop(worker)
        unit, n_attempts, tried = entry.unit, entry.n_attempts + 1, entry.tried | {worker}
        self.n_failed_in_a_row += 1
        share = unit.cost / max(1, len(unit.jobs))
        if left and n_attempts >= self._max_attempts:
            attempts = f"given up after {n_attempts} attempts on {len(tried)} worker(s), the last time: {reason}"
            self.given_up.append(GivenUp(replace(unit, jobs=tuple(left)), attempts))
            return
        again = [_Entry(Unit(unit.model, (job,), share), n_attempts, set(tried)) for job in left]
        self._waiting[unit.model].extendleft(reversed(again))

    def refuse(self, worker: str, reason: str) -> None:
        """Note that a worker cannot load the model of its unit; the unit waits for others."""
        entry = self._running.pop(worker)
        self._refusals[worker, entry.unit.model] = reason
        self._held[worker] = None
        self._waiting[entry.unit.model].appendleft(entry)

    def give_up_rest(self, reason: str) -> None:
        """Give up all units that wait: no worker is left that could do them."""
        for model, entries in self._waiting.items():
            refusals = [text for (_, refused), text in self._refusals.items() if refused == model]
            why = refusals[-1] if refusals else reason
            self.given_up += [GivenUp(entry.unit, why) for entry in entries]
            entries.clear()

    def _work_per_holder(self, model: str) -> float:
        holders = sum(held == model for held in self._held.values())
        return sum(entry.unit.cost for entry in self._waiting[model]) / (holders + 1)

    def _suits(self, entry: _Entry[Job], worker: str) -> bool:
        """Whether a worker should do a unit: it can load the model, and has not failed at it where others have not."""
        able = [other for other in self._held if (other, entry.unit.model) not in self._refusals]
        return worker in able and (worker not in entry.tried or all(other in entry.tried for other in able))
