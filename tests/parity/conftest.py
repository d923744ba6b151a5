"""Fixtures of the comparison with lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def manager() -> Any:
    """The harness' index of its 14,000 tasks."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@pytest.fixture(scope="session")
def harness_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder where the peer's data sets are converted once."""
    return tmp_path_factory.mktemp("harness")
