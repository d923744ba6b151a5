"""Fixtures that several folders of tests share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.models import make_tiny_adapter, make_tiny_model

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two processes (``make test``) one takes the files that start engines and trainers, the other all else.

    An engine or a trainer uses every core and much memory, so that two at a time gain nothing.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Halves(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "engine" if starts_engine(config.rootpath / file) else file

    return Halves(config, log)


@cache
def starts_engine(file: Path) -> bool:
    return "mark.engine" in file.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with its tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama", "llama")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Qwen2 with its tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen2", "qwen2")


@pytest.fixture(scope="session")
def tiny_gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Gemma 3 (sliding and full attention) with its tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-gemma3", "gemma3")


@pytest.fixture(scope="session")
def tiny_gemma3_vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Gemma 3 of text and images, its configuration as sparse as the published ones."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-gemma3-vision", "gemma3_vision")


@pytest.fixture(scope="session")
def tiny_adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Folders of three random adapters for the tiny Llama, ranks 8, 8 and 4."""
    root = tmp_path_factory.mktemp("adapters")
    return tuple(
        make_tiny_adapter(tiny_llama, root / f"adapter-{seed}", rank=rank, seed=seed)
        for seed, rank in ((1, 8), (2, 8), (3, 4))
    )


@pytest.fixture(scope="session")
def null_adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an adapter for the tiny Llama with B = 0."""
    return make_tiny_adapter(tiny_llama, tmp_path_factory.mktemp("adapters") / "null", scale=0.0)
