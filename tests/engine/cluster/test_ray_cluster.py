"""How a cluster is cut into workers, what a worker tells, and addresses where nothing is."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from transfergrid.engine.cluster.host import Broken, Done, Fatal, ModelRefusedError, Outcome, Refused, UnitHost
from transfergrid.engine.cluster.loop import make_probe
from transfergrid.engine.cluster.ray_cluster import ClusterOptions, Node, WorkerShape, connect, shape_workers
from transfergrid.grid import UserError


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([Node(16, 8), Node(16, 8)], {}, WorkerShape(16, 1, 1)),
        ([Node(16, 8), Node(16, 8)], {"gpus_per_worker": 4}, WorkerShape(4, 1, 4)),
        ([Node(16, 8), Node(16, 6)], {"gpus_per_worker": 4}, WorkerShape(3, 1, 4)),
        ([Node(16, 8)], {"n_workers": 3}, WorkerShape(3, 1, 1)),
        ([Node(16, 0)], {}, WorkerShape(1, 16, 0)),
        ([Node(16, 0), Node(8, 0)], {}, WorkerShape(2, 8, 0)),
        ([Node(16, 0), Node(8, 0)], {"n_workers": 5}, WorkerShape(5, 4, 0)),
        ([Node(2, 0)], {"n_workers": 2, "gpus_per_worker": 4}, WorkerShape(2, 1, 0)),
    ],
)
def test_workers_are_one_per_gpus_or_share_the_cpus(
    nodes: list[Node], options: dict[str, Any], expected: WorkerShape
) -> None:
    assert shape_workers(nodes, ClusterOptions(**options)) == expected


def test_workers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"3 worker\(s\) do not fit into the cluster's 2 CPUs.*lower --ray-workers"):
        shape_workers([Node(2, 0)], ClusterOptions(n_workers=3))
    with pytest.raises(UserError, match=r"no machine of the cluster has 4 GPUs .*the largest has 2 GPUs"):
        shape_workers([Node(8, 2)], ClusterOptions(gpus_per_worker=4))


def test_missing_ray_names_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'transfergrid\[ray\]'"), connect(ClusterOptions()):
        pass


def test_client_addresses_are_refused() -> None:
    with (
        pytest.raises(UserError, match=r"'ray://head:10001' is a Ray Client's; expected HOST:PORT"),
        connect(ClusterOptions(address="ray://head:10001")),
    ):
        pass


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "address", [f"127.0.0.1:{free_port()}", "head", "head:port"], ids=("closed", "name", "no port")
)
@pytest.mark.parametrize("is_variable", [True, False])
def test_an_address_without_a_cluster_is_a_sentence(
    address: str, is_variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_variable:
        monkeypatch.setenv("RAY_ADDRESS", address)
    options = ClusterOptions(address="auto" if is_variable else address)
    with (
        pytest.raises(
            UserError, match=f"no Ray cluster answers at '{address}'; start one there with 'ray start --head'"
        ),
        connect(options),
    ):
        pass


def test_a_probe_is_seen_only_with_its_content(tmp_path: Path) -> None:
    probe = make_probe(tmp_path)
    assert not probe.is_seen()
    probe.path.write_text("another run's", encoding="ascii")
    assert not probe.is_seen()
    probe.path.write_text(probe.content, encoding="ascii")
    assert probe.is_seen()


class Runner:
    """Sends the numbers of a list, then raises what stands at its end."""

    def run(self, unit: Any, send: Any) -> None:
        for message in unit:
            if isinstance(message, BaseException):
                raise message
            send(message)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Done()),
        (ModelRefusedError("too large"), Refused("too large")),
        (UserError("disk full"), Fatal("disk full")),
        (RuntimeError("engine died"), Broken("RuntimeError: engine died")),
        (KeyboardInterrupt(), Broken("KeyboardInterrupt: ")),
    ],
)
def test_a_host_sends_what_comes_and_how_it_ended(error: BaseException | None, outcome: Outcome) -> None:
    host = UnitHost("worker-0", lambda name: Runner())
    numbers = list(range(150))
    batches = list(host.run([*numbers, *([error] if error else [])]))
    assert [message for batch in batches for message in batch] == [*numbers, outcome]
    assert max(map(len, batches)) <= 64


def test_a_runner_that_cannot_be_made_is_told() -> None:
    def fail(name: str) -> Runner:
        raise RuntimeError(f"no {name}")

    assert list(UnitHost("worker-7", fail).run([])) == [[Broken("RuntimeError: no worker-7")]]
