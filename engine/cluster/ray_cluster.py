"""A Ray cluster, found or started, and the workers that it is cut into."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transfergrid.engine.cluster.host import MakeRunner, UnitHost
from transfergrid.grid import UserError

AUTO, LOCAL = "auto", "local"
"""``AUTO``: the cluster that RAY_ADDRESS names or that runs here, else a local one. ``LOCAL``: always a local one."""

MAX_RESTARTS = 4
"""Times that Ray starts a worker's process again."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a local cluster."""
_KNOCK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which cluster, and how it is cut into workers."""

    address: str = AUTO
    """``auto``, ``local`` or HOST:PORT."""
    n_workers: int | None = None
    """Workers; None: one per GPU (or per ``gpus_per_worker``), without GPUs one per machine."""
    gpus_per_worker: int = 1
    """GPUs that share one model."""


class Node(NamedTuple):
    """A machine of the cluster."""

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
        """Environment of a worker: as many threads as it reserved CPUs; with a GPU torch decides."""
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
    """Connect to a cluster, or start a local one; in the end, after an error too, its workers are killed.

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
    """Connect; return the name of the cluster, for messages."""
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
    """Check that something listens at an address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_KNOCK_S):
        pass
