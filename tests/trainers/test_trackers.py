from __future__ import annotations

import pytest

from transfergrid.grid import UserError
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
