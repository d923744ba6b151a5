"""What the scorer proves of an adapter before it scores under it; the engine is made up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import WEIGHTS_FILE
from transfergrid.engine.interfaces import Adapter, AdapterError, TokenisedItem
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.planning.packing import unpack_step
from transfergrid.engine.scorers.sizes import EngineSizes
from transfergrid.engine.scorers.vllm import VllmScorer

SIZES = EngineSizes(
    max_loras=1,
    max_cpu_loras=3,
    token_budget=64,
    max_sequences=16,
    max_model_len=64,
    block_size=32,
    kv_cache_bytes=1,
)
ITEM = TokenisedItem(item_id="one", context=(1, 2), continuations=((3,), (4,)))


class MadeUpEngine:
    """Answers as the workers do; while it loads an adapter, something happens to the files."""

    def __init__(self, adapter: Adapter, meanwhile: Callable[[Path], object]) -> None:
        self._adapter, self._meanwhile = adapter, meanwhile

    def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        return [getattr(self, method)(*args)]

    def scoring_limits(self) -> dict[str, int]:
        return {"n_blocks": 8, "block_size": 32, "max_step_sequences": 16, "max_step_tokens": 64}

    def vocabulary_size(self) -> int:
        return 320

    def adapter_modules(self, reference: tuple[str, int, str]) -> list[str]:
        modules = list(self._adapter.layers)
        self._meanwhile(self._adapter.path)
        return modules

    def score_step(self, packed: bytes, reference: tuple[str, int, str] | None, greedy: bool = False) -> int:
        self._scores = np.full(len(unpack_step(packed).score_rows), -1.0 if reference is None else -2.0, dtype="<f4")
        return 0

    def step_scores(self, ticket: int) -> bytes:
        return self._scores.tobytes()


def change(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)


def fail(folder: Path) -> None:
    change(folder)
    raise RuntimeError("weights do not fit into the slot")


def fail_alone(folder: Path) -> None:
    raise RuntimeError("no room")


def score_once(tiny_llama: Path, folder: Path, meanwhile: Callable[[Path], object]) -> list[tuple[float, ...]]:
    adapter = check_adapter(folder, read_linear_shapes(tiny_llama), name="x")
    scorer = VllmScorer(MadeUpEngine(adapter, meanwhile), SIZES)
    return [result.loglikelihoods_nats for result in scorer.score(scorer.prepare([ITEM]), adapter)]


@pytest.fixture
def folder(tiny_adapters: tuple[Path, ...], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_adapters[0], tmp_path / "adapter"))


def test_an_adapter_whose_files_stay_is_scored(tiny_llama: Path, folder: Path) -> None:
    assert score_once(tiny_llama, folder, lambda path: None) == [(-2.0, -2.0)]


@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        (change, "changed in '.*adapter' while the sweep ran: its content was '[0-9a-f]{12}' and is"),
        (fail, "changed in '.*adapter' while the sweep ran: its content was '[0-9a-f]{12}' and is"),
        (shutil.rmtree, "cannot be read any more: .*No such file"),
    ],
)
def test_an_adapter_that_changes_while_the_sweep_runs_is_refused(
    tiny_llama: Path, folder: Path, meanwhile: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(AdapterError, match=rf"adapter 'x@.*' {message}"):
        score_once(tiny_llama, folder, meanwhile)


def test_another_failure_to_load_keeps_its_error(tiny_llama: Path, folder: Path) -> None:
    with pytest.raises(RuntimeError, match="no room"):
        score_once(tiny_llama, folder, fail_alone)
