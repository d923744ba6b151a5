"""The driver of a cluster before and after its workers; no cluster is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transfergrid.engine.cluster.driver import do_here, do_on_cluster
from transfergrid.engine.cluster.ray_cluster import Cluster, WorkerShape
from transfergrid.engine.cluster.units import Workload


class BrokenCluster(Cluster):
    """Cannot start a worker."""

    is_stopped = False

    def start_workers(self, make_runner: Any) -> dict[str, Any]:
        assert len(list(Path(self.name).glob(".probe-*"))) == 1
        raise RuntimeError("no worker starts")

    def stop_workers(self) -> None:
        self.is_stopped = True


def workload_of(root: Path, done: list[Any], jobs: dict[str, list[int]]) -> Workload[int]:
    return Workload(
        root=root,
        jobs=jobs,
        do=lambda model, jobs: done.append((model, jobs)),
        seed=lambda job: None,
        cost=float,
        make_runner=lambda name: pytest.fail(name),
        pack=lambda unit, sees_run: unit,
        take_in=done.append,
        left=lambda unit: unit.jobs,
        give_up=lambda job, reason: done.append((job, reason)),
        note=done.append,
    )


def test_this_process_does_model_after_model(tmp_path: Path) -> None:
    done: list[Any] = []
    do_here(workload_of(tmp_path, done, {"b": [1, 2], "a": [3]}))
    assert done == [("b", [1, 2]), ("a", [3])]


def test_nothing_to_do_starts_no_worker(tmp_path: Path) -> None:
    cluster = BrokenCluster(None, WorkerShape(2, 1, 0), str(tmp_path))
    done: list[Any] = []
    do_on_cluster(cluster, workload_of(tmp_path, done, {"a": []}))
    assert (done, cluster.is_stopped) == ([], False)


def test_a_driver_that_fails_leaves_neither_workers_nor_its_probe(tmp_path: Path) -> None:
    cluster = BrokenCluster(None, WorkerShape(2, 1, 0), str(tmp_path))
    done: list[Any] = []
    with pytest.raises(RuntimeError, match="no worker starts"):
        do_on_cluster(cluster, workload_of(tmp_path, done, {"a": [1, 2, 3]}))
    assert done == [f"{tmp_path}: 2 worker(s) with 1 CPU(s), 3 units of work"]
    assert cluster.is_stopped
    assert list(tmp_path.iterdir()) == []
