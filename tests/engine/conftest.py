"""Fixtures that tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.fake_server import FakeServer, serve_fake


@pytest.fixture
def adapter_root(tmp_path: Path) -> Path:
    """The folder from which a server may load adapters."""
    (tmp_path / "adapters").mkdir()
    return tmp_path / "adapters"


@pytest.fixture
def server(adapter_root: Path) -> Iterator[FakeServer]:
    """A server without a model that loads adapters from ``adapter_root``."""
    with serve_fake(adapter_root) as server:
        yield server
