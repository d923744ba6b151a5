"""Units are given to the workers of a cluster until all are done."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from transfergrid.engine.cluster.host import Broken, Done, Fatal, Greeting, Outcome, Probe, Refused
from transfergrid.engine.cluster.ray_cluster import Cluster
from transfergrid.engine.cluster.units import Job, Unit, UnitQueue, Workload
from transfergrid.grid import UserError

MAX_FAILED_IN_A_ROW = 9
"""After so many failed attempts with no unit finished in between, the cluster counts as broken."""
_POLL_S = 0.5


@dataclass(slots=True)
class UnitLoop(Generic[Job]):
    """Gives units to workers, takes in what they send, and gives what dead workers left to others."""

    cluster: Cluster
    queue: UnitQueue[Job]
    actors: dict[str, Any]
    probe: Probe
    workload: Workload[Job]
    _coming: dict[Any, str] = field(default_factory=dict)
    _running: dict[Any, tuple[str, Unit[Job]]] = field(default_factory=dict)
    _up: dict[str, Greeting] = field(default_factory=dict)
    _failed: str = "none came up"

    def run(self) -> None:
        """Work until every unit is finished or given up; the queue's ``given_up`` has the latter.

        Raises:
            UserError: If a worker met a fault that no other worker could avoid, or attempt after attempt fails.
        """
        for name in self.actors:
            self._greet(name)
        while self._give_out() or self._running or (self._coming and self.queue.n_waiting):
            self.workload.check()
            waiting = [*self._running, *self._coming]
            ready, _ = self.cluster.ray.wait(waiting, num_returns=1, timeout=_POLL_S, fetch_local=False)
            for reference in ready:
                if reference in self._coming:
                    self._welcome(reference)
                else:
                    self._advance(reference)
            if self.queue.n_failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                raise UserError(
                    f"{self.queue.n_failed_in_a_row} attempts in a row failed on {self.cluster.name}, the last: "
                    f"{self._failed}; see the workers' logs, then give the same command again"
                )
        self.queue.give_up_rest(f"no worker is left for it; {self._failed}")

    def _greet(self, name: str) -> None:
        self._coming[self.actors[name].hello.options(max_task_retries=-1).remote(self.probe)] = name

    def _welcome(self, reference: Any) -> None:
        """Let a worker whose process runs, for the first time or again, have units."""
        name = self._coming.pop(reference)
        try:
            greeting = self.cluster.ray.get(reference)
        except self.cluster.ray.exceptions.RayError as error:
            gone = f"{name} is gone for good: {_first_line(error)}"
            self._failed = self._failed if name in self._up else gone
            self.workload.note(gone)
            return
        if name in self._up and self._up[name].life == greeting.life:  # the process that is being killed
            time.sleep(_POLL_S)
            self._greet(name)
            return
        self._up[name] = greeting
        self.queue.join(name)

    def _give_out(self) -> bool:
        """Give every idle worker a unit; return whether one was given."""
        busy = {name for name, _ in self._running.values()}
        given = False
        for name in self.queue.workers:
            unit = None if name in busy else self.queue.take(name)
            if unit is not None:
                packed = self.workload.pack(unit, self._up[name].sees_run)
                self._running[self.actors[name].run.options(num_returns="streaming").remote(packed)] = name, unit
                given = True
        return given

    def _advance(self, stream: Any) -> None:
        """Take in the next batch that a worker sent."""
        exceptions = self.cluster.ray.exceptions
        try:
            batch = self.cluster.ray.get(next(stream))
        except (exceptions.RayError, StopIteration) as error:
            name, unit = self._running.pop(stream)
            self._lose(name, unit, _first_line(error))
            return
        for message in batch:
            if isinstance(message, Outcome):
                self._end(stream, message)
            else:
                self.workload.take_in(message)

    def _end(self, stream: Any, outcome: Outcome) -> None:
        name, unit = self._running.pop(stream)
        match outcome:
            case Done():
                self.queue.finish(name)
            case Refused():
                self.workload.note(f"{name} cannot take {unit.model}: {outcome.reason}")
                self.queue.refuse(name, outcome.reason)
            case Fatal():
                raise UserError(f"{name}: {outcome.reason}")
            case Broken():  # whatever broke may have broken the process too
                self.cluster.ray.kill(self.actors[name], no_restart=False)
                self._lose(name, unit, outcome.reason)

    def _lose(self, name: str, unit: Unit[Job], reason: str) -> None:
        """Give a unit to others, and have its worker's process replaced."""
        left = self.workload.left(unit)
        self.queue.fail(name, reason, left=left)
        self._failed = f"{name}: {reason}"
        self.queue.leave(name)
        self.workload.note(f"{name} failed at {unit.model}, {len(left)} of {len(unit.jobs)} job(s) are left: {reason}")
        self._greet(name)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def make_probe(folder: Path) -> Probe:
    """Return a file, not yet written, that shows workers whether they see a run folder."""
    return Probe(folder.resolve() / f".probe-{os.getpid()}", os.urandom(16).hex())
