from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.trainers.small_grid import ENGLISH, SPANISH, adapter, make_config, sweep
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.trackers import check_trackers

FOUND_BY = "transformers.integrations.integration_utils.is_{}_available"


def test_trackers_that_transformers_finds_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FOUND_BY.format("wandb"), lambda: True)
    monkeypatch.setattr(FOUND_BY.format("flytekit"), lambda: True)
    for names in ((), ("none",), ("all",), ("wandb", "flyte")):
        check_trackers(names)


def test_an_unknown_tracker_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown tracker 'wandbb' in training\.report_to; .*did you mean 'wandb'\?"):
        check_trackers(["wandbb"])
    with pytest.raises(UserError, match="unknown tracker 'none'"):
        check_trackers(["none", "wandb"])


def test_a_tracker_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    packages = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}
    for name in INTEGRATION_TO_CALLBACK:
        monkeypatch.setattr(FOUND_BY.format(packages.get(name, name)), lambda: False)
        with pytest.raises(UserError, match=rf"tracker '{name}' in training\.report_to is not there .*; install its"):
            check_trackers([name])


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_every_adapter_has_a_tracker_run_of_its_own_that_stays(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = f"sqlite:///{tmp_path / 'mlflow.db'}" if find_spec("sqlalchemy") else (tmp_path / "mlruns").as_uri()
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("MLFLOW_TRACKING_URI", store)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = RunFolder(tmp_path / "run")
    config = make_config(tiny_llama, report_to=("tensorboard", "wandb", "mlflow"))
    assert len(sweep(config, run).finished) == 2
    assert not {"TENSORBOARD_LOGGING_DIR", "WANDB_DIR"} & set(os.environ)
    for cell in (ENGLISH, SPANISH):
        folder = run.tracking / "tiny" / "s17" / cell.name
        events = EventAccumulator(str(folder)).Reload()
        losses = [point.value for point in events.Scalars("train/loss")]
        record = json.loads((adapter(run, cell) / "training.json").read_text(encoding="utf-8"))
        assert losses == pytest.approx([point["loss"] for point in record["loss_curve"]["steps"]], rel=1e-5)
    assert len(list(run.tracking.glob("wandb/offline-run-*/run-*.wandb"))) == 2
    client = MlflowClient(store)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert sorted(each.info.run_name for each in runs) == [f"tiny s17 {cell.name}" for cell in (ENGLISH, SPANISH)]
    assert {each.info.status for each in runs} == {"FINISHED"}
