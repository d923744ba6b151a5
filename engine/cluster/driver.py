"""Executors: who has the jobs of a workload done. One driver of a Ray cluster serves scoring and training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transfergrid.engine.cluster.loop import UnitLoop, make_probe
from transfergrid.engine.cluster.ray_cluster import Cluster
from transfergrid.engine.cluster.units import UnitQueue, Workload, group_units
from transfergrid.store.files import write_text

Executor = Callable[[Workload[Any]], None]
"""Has all jobs done, and takes in what comes of them."""


def do_here(workload: Workload[Any]) -> None:
    """Do all jobs in this process, one model after another."""
    for model, jobs in workload.jobs.items():
        workload.do(model, jobs)


def do_on_cluster(cluster: Cluster, workload: Workload[Any]) -> None:
    """Have all jobs done by the workers of a cluster; an ``Executor`` once the cluster is bound.

    Raises:
        UserError: If a worker met a fault that no other worker could avoid, or attempt after attempt fails.
    """
    groups: dict[tuple[str, int | None], list[Any]] = {}
    for model, jobs in workload.jobs.items():
        for job in jobs:
            groups.setdefault((model, workload.seed(job)), []).append(job)
    units = group_units(groups, workload.cost, n_workers=cluster.shape.n_workers)
    if not units:
        return
    workload.note(cluster.describe(len(units)))
    probe, queue = make_probe(workload.root), UnitQueue(units)
    write_text(probe.path, probe.content)
    try:
        UnitLoop(cluster, queue, cluster.start_workers(workload.make_runner), probe, workload).run()
    finally:
        probe.path.unlink(missing_ok=True)
        cluster.stop_workers()
    for unit, reason in queue.given_up:
        for job in unit.jobs:
            workload.give_up(job, reason)
