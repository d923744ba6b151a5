"""Processes that sweep and are killed at random moments: ``python -m tests.engine.kill_sweeps JOB``.

JOB is a JSON file: model, whole (a run folder with adapters), n_kills, seed. This process only starts and kills; each sweep is a process of its own.
The tokenizer is one token per character and the model's configuration was read before the first start, so that no sweep has to import
torch or transformers: the time to be killed in is the sweep's own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.engine.fake_scorer import hashed_loglikelihood
from tests.engine.sweeps import FakeMaker, small_config
from transfergrid.config.settings import EngineConfig, PromptConfig
from transfergrid.engine.evaluation import score_model as model_scoring
from transfergrid.engine.evaluation import sweep
from transfergrid.engine.interfaces import Adapter, TokenisedItem
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_writer import StoreWriter

LANGUAGES = ("de", "en", "hi")


class CharacterTokenizer:
    """One token per character; as much of a transformers tokenizer as tokenisation uses."""

    bos_token_id = None
    eos_token_id = 0
    chat_template = None

    def decode(self, token: int) -> str:
        return "\0"

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(char) for char in text] for text in texts]}


def slow_loglikelihood(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
    time.sleep(0.0003)
    return hashed_loglikelihood(item, choice, adapter)


def sweep_once(model: Path, run: Path) -> None:
    """Sweep with a slow fake scorer and parts that are written every few milliseconds."""
    model_scoring.load_tokenizer = lambda folder: CharacterTokenizer()  # type: ignore[attr-defined]
    StoreWriter.__init__.__kwdefaults__["flush_after_s"] = 0.005
    config = small_config(
        model,
        languages=LANGUAGES,
        engine=EngineConfig(dtype="float32", max_model_len=100_000),
        prompts=PromptConfig(eval_chat_template=False),
    )
    report = sweep.evaluate(config, RunFolder(run), sweep.EvalRequest(), maker=FakeMaker(slow_loglikelihood))
    os._exit(0 if report.is_complete else 1)


def start(model: Path, run: Path) -> int:
    """Start a sweep in a process of its own and return its id."""
    process = os.fork()
    if process == 0:
        sweep_once(model, run)
    return process


def kill_until_done(model: Path, run: Path, chance: random.Random, longest_s: float) -> list[int]:
    """Kill sweeps on one run folder until one is done before its time comes; return the parts after each kill."""
    parts: list[int] = []
    while True:
        process = start(model, run)
        time.sleep(chance.uniform(0.0, longest_s))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError(f"a sweep ended with status {os.WEXITSTATUS(status)} after {len(parts)} kills")
            return parts
        parts.append(len(list((run / "scores").glob("*.parquet"))))


def main(job: Path) -> None:
    """Sweep once in peace, then kill sweeps on fresh run folders; print the parts after each kill as JSON."""
    settings = json.loads(job.read_text(encoding="utf-8"))
    model, whole = Path(settings["model"]), Path(settings["whole"])
    read_model_facts(model)
    started = time.monotonic()
    os.waitpid(start(model, whole), 0)
    wall_s = time.monotonic() - started
    chance = random.Random(settings["seed"])
    rounds: list[list[int]] = []
    while sum(map(len, rounds)) < settings["n_kills"]:
        run = whole.parent / f"killed-{len(rounds)}"
        run.mkdir()
        (run / "adapters").symlink_to(whole / "adapters")
        rounds.append(kill_until_done(model, run, chance, 0.7 * wall_s))
    print(json.dumps(rounds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
