"""Experiment trackers of transformers' Trainer, seen to before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from transfergrid.grid import UserError
from transfergrid.wording import closest_hint

_PACKAGES = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}
"""How transformers calls the packages of trackers whose names are others."""


def check_trackers(names: Sequence[str]) -> None:
    """See that every tracker of ``training.report_to`` is one that transformers has and finds here.

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
