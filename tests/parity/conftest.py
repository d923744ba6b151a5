"""Fixtures of the comparison with lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def harness_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder where the peer's data sets are converted once."""
    return tmp_path_factory.mktemp("harness")
