"""Training on a local Ray cluster of two workers: the adapters of one process, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.trainers.ray_runners import DeadlyRunner
from tests.trainers.small_grid import everything
from transfergrid.config.settings import GridConfig
from transfergrid.engine.cluster import driver
from transfergrid.engine.cluster.driver import do_on_cluster as train_on_cluster
from transfergrid.engine.cluster.ray_cluster import Cluster, ClusterOptions, connect
from transfergrid.store.files import hash_files
from transfergrid.store.folder import RunFolder
from transfergrid.trainers import on_cluster as ray_training
from transfergrid.trainers.events import AdapterFinished
from transfergrid.trainers.sweep import SweepSummary, train_adapters

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marker") / "killed"


@pytest.fixture(scope="module")
def cluster(marker: Path) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("DEADLY_MARKER", str(marker))
        with connect(ClusterOptions(address="local", n_workers=2)) as connected:
            yield connected


def train(cluster: Cluster, config: GridConfig, run: RunFolder, events: list[Any]) -> SweepSummary:
    execute = partial(train_on_cluster, cluster)
    return train_adapters(config, run, everything(config), events=events.append, execute=execute)


def weights(run: RunFolder) -> dict[str, str]:
    return {
        str(path.parent.relative_to(run.root)): hash_files([path, path.parent / "adapter_config.json"])
        for path in sorted(run.adapters.rglob("adapter_model.safetensors"))
    }


@pytest.mark.parametrize("sees_run", [True, False])
def test_a_worker_that_is_killed_changes_no_bit(
    sees_run: bool,
    cluster: Cluster,
    config: GridConfig,
    finished: RunFolder,
    marker: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not sees_run:  # the driver writes no probe, so that no worker finds it
        monkeypatch.setattr(driver, "write_text", lambda path, text: None)
    monkeypatch.setattr(ray_training, "TrainingRunner", DeadlyRunner)
    marker.unlink(missing_ok=True)
    run, seen = RunFolder(tmp_path), list[Any]()
    summary = train(cluster, config, run, seen)
    assert marker.exists()
    assert (len(summary.finished), summary.failed) == (2, ())
    assert weights(run) == weights(finished)
    assert sum(isinstance(event, AdapterFinished) for event in seen) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".unf", ".probe"))) == []
    assert len(train_adapters(config, run, everything(config)).kept) == 2


INTERRUPTED = """
import sys
from pathlib import Path
from tests.trainers.ray_runners import DeadlyRunner
from tests.trainers.small_grid import everything, make_config
from transfergrid.engine.cluster.ray_cluster import ClusterOptions
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.events import StepDone
from transfergrid.trainers.sweep import train_adapters_on_cluster

config = make_config(Path(sys.argv[1]), epochs=10000)
def tell(event):
    if isinstance(event, StepDone):
        print("step", flush=True)
train_adapters_on_cluster(config, RunFolder(Path(sys.argv[2])), everything(config), ClusterOptions(address="local"), events=tell)
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_command(kind: signal.Signals, tiny_llama: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", INTERRUPTED, str(tiny_llama), str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert any(line == "step\n" for line in process.stdout)
        started = psutil.Process(process.pid).children(recursive=True)
        names = {child.pid: child.name() for child in started}
        assert "ray::UnitHost" in " ".join(names.values())
        if kind is signal.SIGINT:
            os.killpg(process.pid, kind)  # as a terminal does
        else:
            process.kill()
        process.stdout.read()
        assert process.wait() != 0
    if kind is signal.SIGKILL:  # two helpers of Ray's notice it only after a minute
        started = [child for child in started if "Agent" not in names[child.pid]]
    deadline = time.monotonic() + 60
    while (alive := [child for child in started if child.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive == []
    assert list(tmp_path.rglob("adapter_config.json")) == []
