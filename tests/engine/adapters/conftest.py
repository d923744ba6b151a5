"""Fixtures that tests of adapters share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from transfergrid.engine.models.shapes import read_linear_shapes


@pytest.fixture
def adapter_folder(tiny_adapters: tuple[Path, ...], tmp_path: Path) -> Path:
    """A copy of an adapter that a test may break."""
    return Path(shutil.copytree(tiny_adapters[0], tmp_path / "adapter"))


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> dict[str, tuple[int, int]]:
    return read_linear_shapes(tiny_llama)
