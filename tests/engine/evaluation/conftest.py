"""Fixtures that tests of the sweep share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.sweeps import add_adapters, small_config
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    return small_config(tiny_llama)


@pytest.fixture
def run(config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    add_adapters(config, folder, tiny_adapters[0])
    return folder
