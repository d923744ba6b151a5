"""Fixtures that tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.small_grid import make_config, sweep
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder


@pytest.fixture(scope="session")
def config(tiny_llama: Path) -> GridConfig:
    """The small grid: two adapters of one model."""
    return make_config(tiny_llama)


@pytest.fixture(scope="session")
def finished(config: GridConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose two adapters are trained in one process; tests only read it."""
    run = RunFolder(tmp_path_factory.mktemp("finished"))
    assert len(sweep(config, run).finished) == 2
    return run
