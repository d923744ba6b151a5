"""Experiment trackers of transformers' Trainer: checked before anything is trained, one run for every adapter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transfergrid.grid import UserError
from transfergrid.wording import closest_hint

_PACKAGES = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}
"""How transformers calls the packages of trackers whose names are others."""
_TENSORBOARD, _WANDB = "TENSORBOARD_LOGGING_DIR", "WANDB_DIR"
"""Variables that say where a tracker writes; else it is below the scratch folder, or the working folder."""


def check_trackers(names: Sequence[str]) -> None:
    """Check that every tracker of ``training.report_to`` is one that transformers has and finds here.

    Raises:
        UserError: If one is unknown or not installed.
    """
    if list(names) in ([], ["all"], ["none"]):  # transformers' words for those that are installed, and for none
        return
    from transformers.integrations import integration_utils

    accepted = sorted(integration_utils.INTEGRATION_TO_CALLBACK)
    for name in names:
        if name not in accepted:
            raise UserError(
                f"unknown tracker {name!r} in training.report_to; expected some of {accepted}"
                f"{closest_hint(name, accepted)}"
            )
        if not getattr(integration_utils, f"is_{_PACKAGES.get(name, name)}_available")():
            raise UserError(
                f"tracker {name!r} in training.report_to is not there for transformers on this machine; install its "
                "package, or leave it out"
            )


@contextmanager
def tracked_run(names: Sequence[str], root: Path, job: str) -> Iterator[None]:
    """Give one adapter a tracker run of its own, in a folder that stays; end it after errors too.

    Args:
        names: ``training.report_to``.
        root: Folder for the trackers' files where the environment names none.
        job: The adapter's name; its words become folders below for TensorBoard, which names a run by its folder.
    """
    if list(names) in ([], ["none"]):
        yield
        return
    before = {name: os.environ.get(name) for name in (_TENSORBOARD, _WANDB)}
    folder = Path(before[_TENSORBOARD] or root, *job.split())
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_TENSORBOARD], os.environ[_WANDB] = str(folder), before[_WANDB] or str(root)
    try:
        yield
    finally:
        end_tracker_runs()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_tracker_runs() -> None:
    """End the runs that the callbacks leave open, or the next adapter would be logged to them."""
    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.finish()
    if (mlflow := sys.modules.get("mlflow")) is not None and mlflow.active_run() is not None:
        mlflow.end_run()
