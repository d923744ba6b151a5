"""A Ray cluster: found or started, its workers, and units of work given to them until all are done."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple

from transfergrid.engine.cluster.host import (
    Broken,
    Done,
    Fatal,
    Greeting,
    MakeRunner,
    Outcome,
    Probe,
    Refused,
    UnitHost,
)
from transfergrid.engine.cluster.units import Job, Unit, UnitQueue
from transfergrid.grid import UserError

AUTO, LOCAL = "auto", "local"
"""Addresses: the cluster that RAY_ADDRESS names or that runs on this machine, else a local one; always a local one."""

MAX_RESTARTS = 4
"""Times that Ray starts a worker's process again."""
MAX_FAILED_IN_A_ROW = 9
"""Failed attempts with no unit finished in between, before the cluster is taken to be broken."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a local cluster."""
_POLL_S = 0.5
_KNOCK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What a user says about the cluster."""

    address: str = AUTO
    """``auto``, ``local`` or HOST:PORT."""
    n_workers: int | None = None
    """Workers; None: one per GPU (or per ``gpus_per_worker``), without GPUs one per machine."""
    gpus_per_worker: int = 1
    """GPUs that share one model."""


class Node(NamedTuple):
    """What a machine of the cluster has."""

    n_cpus: int
    n_gpus: int


class WorkerShape(NamedTuple):
    """How the cluster is cut into workers."""

    n_workers: int
    n_cpus: int
    """CPUs that each worker reserves."""
    n_gpus: int
    """GPUs that each worker reserves, all on one machine."""

    @property
    def threads(self) -> dict[str, str]:
        """Environment that keeps a worker on the CPUs it reserved, from its start on; with a GPU torch decides."""
        return {} if self.n_gpus else {"OMP_NUM_THREADS": str(self.n_cpus)}


def shape_workers(nodes: Sequence[Node], options: ClusterOptions) -> WorkerShape:
    """Cut a cluster into workers of one size.

    Raises:
        UserError: If not even one worker, or not as many as asked for, fits.
    """
    if any(node.n_gpus for node in nodes):
        each = options.gpus_per_worker
        fitting = sum(min(node.n_gpus // each, node.n_cpus) for node in nodes)
        if not fitting:
            raise UserError(
                f"no machine of the cluster has {each} GPUs (engine.tensor_parallel_size) and a CPU; the largest has "
                f"{max(node.n_gpus for node in nodes)} GPUs; lower engine.tensor_parallel_size or add a larger machine"
            )
        return WorkerShape(min(fitting, options.n_workers or fitting), 1, each)
    wanted = options.n_workers or sum(node.n_cpus > 0 for node in nodes)
    for n_cpus in range(max((node.n_cpus for node in nodes), default=0), 0, -1):
        if wanted and sum(node.n_cpus // n_cpus for node in nodes) >= wanted:
            return WorkerShape(wanted, n_cpus, 0)
    raise UserError(
        f"{wanted} worker(s) do not fit into the cluster's {sum(node.n_cpus for node in nodes)} CPUs; expected at "
        "least one CPU for each: lower --ray-workers or add machines"
    )


@dataclass(slots=True)
class Cluster:
    """A connection to Ray, and the workers that this process started."""

    ray: Any
    shape: WorkerShape
    name: str
    """What the cluster is, for a message."""
    _actors: list[Any] = field(default_factory=list)

    def describe(self, n_units: int) -> str:
        """Return what the cluster is, its workers and how many units they share."""
        shape = self.shape
        share = f"{shape.n_gpus} GPU(s)" if shape.n_gpus else f"{shape.n_cpus} CPU(s)"
        return f"{self.name}: {shape.n_workers} worker(s) with {share}, {n_units} units of work"

    def start_workers(self, make_runner: MakeRunner) -> dict[str, Any]:
        """Start the workers; returns their handles by name at once, before they are up."""
        kind = self.ray.remote(UnitHost).options(
            num_cpus=self.shape.n_cpus,
            num_gpus=self.shape.n_gpus,
            max_restarts=MAX_RESTARTS,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": self.shape.threads},
        )
        names = [f"worker-{number}" for number in range(self.shape.n_workers)]
        actors = {name: kind.remote(name, make_runner) for name in names}
        self._actors += actors.values()
        return actors

    def stop_workers(self) -> None:
        """Kill the workers' processes."""
        for actor in self._actors:
            self.ray.kill(actor)
        self._actors.clear()


@contextmanager
def connect(options: ClusterOptions) -> Iterator[Cluster]:
    """Connect to a cluster, or start a local one; at the end its workers are gone, however that comes.

    Raises:
        UserError: If Ray is not installed, no cluster answers at the address, or no worker fits into it.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed: pip install 'transfergrid[ray]'") from error
    was_connected = ray.is_initialized()
    name = "the cluster of this process" if was_connected else _connect(ray, options.address)
    cluster = None
    try:
        nodes = [Node(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in _resources(ray)]
        cluster = Cluster(ray, shape_workers(nodes, options), name)
        yield cluster
    finally:
        if cluster is not None:
            cluster.stop_workers()
        if not was_connected:
            ray.shutdown()


def _resources(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _connect(ray: Any, address: str) -> str:
    """Connect, and return what to."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    named = os.environ.get("RAY_ADDRESS", "") if address == AUTO else address
    if named.startswith("ray://"):
        raise UserError(f"Ray address {named!r} is a Ray Client's; expected HOST:PORT of the cluster itself, or 'auto'")
    if named != LOCAL:
        try:
            if named and named != AUTO:
                _knock(named)
            ray.init(address=named or AUTO, **quiet)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            if named and named != AUTO:
                raise UserError(
                    f"no Ray cluster answers at {named!r}; start one there with 'ray start --head', correct --ray or "
                    "RAY_ADDRESS, or give --ray local"
                ) from error
        else:
            return f"the Ray cluster at {ray.get_runtime_context().gcs_address}"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address=LOCAL,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        **quiet,
    )
    return "a local Ray cluster"


def _knock(address: str) -> None:
    """See that somebody listens at an address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_KNOCK_S):
        pass


@dataclass(slots=True)
class UnitLoop(Generic[Job]):
    """Gives units to workers, takes in what they send, and gives the units of dead workers to others."""

    cluster: Cluster
    queue: UnitQueue[Job]
    actors: dict[str, Any]
    probe: Probe
    take_in: Callable[[Any], None]
    """Called with everything that workers send."""
    left: Callable[[Unit[Job]], Sequence[Job]]
    """Jobs of a unit that are not finished."""
    note: Callable[[str], None]
    """Called with what a reader should know."""
    pack: Callable[[Unit[Job], bool], Any] = lambda unit, sees_run: unit
    """Makes of a unit what is sent to a worker; told whether that worker sees the run folder."""
    check: Callable[[], None] = lambda: None
    """Called now and then; raises to stop."""
    _coming: dict[Any, str] = field(default_factory=dict)
    _running: dict[Any, tuple[str, Unit[Job]]] = field(default_factory=dict)
    _up: dict[str, Greeting] = field(default_factory=dict)
    _failed: str = "none came up"

    def run(self) -> None:
        """Work until every unit is finished or given up; those are in the queue's ``given_up``.

        Raises:
            UserError: If a worker met a fault that no other worker could avoid, or attempt after attempt fails.
        """
        for name in self.actors:
            self._greet(name)
        while self._give_out() or self._running or (self._coming and self.queue.n_waiting):
            self.check()
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
        """Take in a worker that is up, for the first time or again."""
        name = self._coming.pop(reference)
        try:
            greeting = self.cluster.ray.get(reference)
        except self.cluster.ray.exceptions.RayError as error:
            gone = f"{name} is gone for good: {_first_line(error)}"
            self._failed = self._failed if name in self._up else gone
            self.note(gone)
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
                packed = self.pack(unit, self._up[name].sees_run)
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
                self.take_in(message)

    def _end(self, stream: Any, outcome: Outcome) -> None:
        name, unit = self._running.pop(stream)
        match outcome:
            case Done():
                self.queue.finish(name)
            case Refused():
                self.note(f"{name} cannot take {unit.model}: {outcome.reason}")
                self.queue.refuse(name, outcome.reason)
            case Fatal():
                raise UserError(f"{name}: {outcome.reason}")
            case Broken():  # whatever broke may have broken the process too
                self.cluster.ray.kill(self.actors[name], no_restart=False)
                self._lose(name, unit, outcome.reason)

    def _lose(self, name: str, unit: Unit[Job], reason: str) -> None:
        """Give a unit to others, and have its worker's process replaced."""
        left = self.left(unit)
        self.queue.fail(name, reason, left=left)
        self._failed = f"{name}: {reason}"
        self.queue.leave(name)
        self.note(f"{name} failed at {unit.model}, {len(left)} of {len(unit.jobs)} job(s) are left: {reason}")
        self._greet(name)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def make_probe(folder: Path) -> Probe:
    """Return a file of a run folder by which workers tell whether they see that folder."""
    return Probe(folder.resolve() / f".probe-{os.getpid()}", os.urandom(16).hex())
