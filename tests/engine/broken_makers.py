"""Backends for tests on a cluster: they fail in a worker's process, once or always."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.engine.fake_scorer import FakeScorer, hashed_loglikelihood
from tests.engine.sweeps import FakeMaker
from transfergrid.engine.interfaces import Adapter, Scorer, TokenisedItem
from transfergrid.engine.scorers.multi_lora import MultiLora
from transfergrid.grid import UserError


@dataclass(frozen=True)
class DeadlyFunction:
    """Kills the process that scores a named adapter: the first one that comes to it, or every one."""

    adapter: str
    marker: Path
    always: bool = False

    def __call__(self, item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
        if adapter is not None and adapter.name.startswith(self.adapter) and (self.always or not self.marker.exists()):
            self.marker.write_text(str(os.getpid()), encoding="ascii")
            os.kill(os.getpid(), signal.SIGKILL)
        return hashed_loglikelihood(item, choice, adapter)


@dataclass
class UnloadableMaker(FakeMaker):
    """Loads a model nowhere but in the process that made it."""

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> FakeScorer:
        raise UserError("the model does not fit")


@dataclass
class BrokenMaker(FakeMaker):
    """An engine that breaks as soon as it starts."""

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> FakeScorer:
        raise RuntimeError("the engine is broken")


@dataclass(frozen=True, slots=True)
class DeadlyMultiLora(MultiLora):
    """vLLM in a process that is killed when it first prefetches an adapter after the base."""

    marker: Path = Path()

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> Scorer:
        scorer = MultiLora(self.config).open(model_folder, longest_tokens=longest_tokens, max_rank=max_rank)
        if not self.marker.exists():
            self.marker.write_text(str(os.getpid()), encoding="ascii")
            score = scorer.score
            passes = iter(range(100))

            def deadly(*arguments: object) -> object:
                if next(passes) == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                return score(*arguments)  # type: ignore[arg-type]

            scorer.score = deadly  # type: ignore[method-assign,assignment]
        return scorer
