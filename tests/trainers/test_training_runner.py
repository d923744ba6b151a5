"""What a worker of a cluster trains and refuses; no cluster is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.executors import do_elsewhere
from tests.trainers.small_grid import ENGLISH, SPANISH, adapter, everything, make_config, make_jobs, weights_hash
from transfergrid.config.settings import GridConfig
from transfergrid.engine.cluster.host import ModelRefusedError
from transfergrid.engine.cluster.units import Unit
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.on_cluster import TrainingRunner, pack_unit
from transfergrid.trainers.sweep import train_adapters


@pytest.mark.parametrize(
    ("changes", "dtype", "message"),
    [
        (
            {"dtype": "auto"},
            "float32",
            r"worker-1 would train 'tiny' in bfloat16, the command's number format is float32",
        ),
        (
            {"dtype": "bfloat16", "report_to": ["wandb"]},
            "bfloat16",
            "tracker 'wandb' in training.report_to is not there",
        ),
    ],
)
def test_a_worker_that_would_train_otherwise_refuses(
    changes: dict[str, Any], dtype: str, message: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfergrid.engine.models.device.has_native_bfloat16", lambda _: True)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    jobs = tuple(make_jobs(make_config(tiny_llama), tmp_path))
    runner = TrainingRunner(make_config(tiny_llama, **changes), tmp_path, "worker-1")
    with pytest.raises(ModelRefusedError, match=message):
        runner.run(pack_unit(Unit("tiny", jobs, 1.0), True, dtype=dtype), print)


@pytest.mark.engine
def test_another_executor_trains_the_same_adapters(config: GridConfig, finished: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    summary = train_adapters(config, run, everything(config), execute=do_elsewhere)
    assert (len(summary.finished), summary.failed) == (2, ())
    for cell in (ENGLISH, SPANISH):
        assert weights_hash(adapter(run, cell)) == weights_hash(adapter(finished, cell))
