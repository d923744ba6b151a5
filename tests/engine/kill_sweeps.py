"""Evaluations that are killed at random moments: ``python -m tests.engine.kill_sweeps JOB``; see ``tests.kills``.

JOB is JSON: model, whole (a run folder with adapters), n_kills, adaptive. The tokenizer is one token per character and the
model's configuration was read before the first start, so that no sweep has to import torch or transformers: the time
to be killed in is the sweep's own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tests.engine.fake_scorer import hashed_loglikelihood
from tests.engine.sweeps import FakeMaker, small_config
from tests.kills import kill_rounds
from transfergrid.config.prompts import PromptConfig
from transfergrid.config.settings import DataConfig, EngineConfig
from transfergrid.engine.evaluation import score_model as model_scoring
from transfergrid.engine.evaluation import sweep
from transfergrid.engine.interfaces import Adapter, TokenisedItem
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.grid import UserError
from transfergrid.store import adaptive as store_adaptive
from transfergrid.store import file_index
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import HOLDER_FILE
from transfergrid.store.score_writer import StoreWriter

LANGUAGES = ("de", "en", "hi")


class CharacterTokenizer:
    """One token per character; as much of a transformers tokenizer as tokenisation uses."""

    bos_token = bos_token_id = None
    eos_token, eos_token_id = "\0", 0
    chat_template = None

    def decode(self, token: int) -> str:
        return "\0"

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(char) for char in text] for text in texts]}


def slow_loglikelihood(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
    time.sleep(0.0003)
    return hashed_loglikelihood(item, choice, adapter)


def sweep_once(model: Path, run: Path, adaptive: bool = False) -> None:
    """Sweep with a slow fake scorer, parts that are written every few milliseconds, and an index that keeps them at once."""
    model_scoring.load_tokenizer = lambda folder: CharacterTokenizer()  # type: ignore[attr-defined]
    StoreWriter.__init__.__kwdefaults__["flush_after_s"] = 0.005
    file_index._SETTLED_NS = 0
    config = small_config(
        model,
        languages=LANGUAGES,
        engine=EngineConfig(dtype="float32", max_model_len=100_000),
        prompts=PromptConfig(eval_chat_template=False),
    )
    if adaptive:
        store_adaptive.FIRST_LOOK, store_adaptive.LOOK_EVERY = 4, 3
        config = config.model_copy(update={"data": DataConfig(max_test_items=16, max_train_items=4)})
    request = sweep.EvalRequest(design=store_adaptive.Design() if adaptive else None)
    report = sweep.evaluate(config, RunFolder(run), request, maker=FakeMaker(slow_loglikelihood))
    os._exit(0 if report.is_complete else 1)


def require_refusal(model: Path, run: Path, process: int) -> None:
    """Check that a sweep is refused while another process, held here, sweeps the same run folder."""
    while not (run / HOLDER_FILE).exists():
        time.sleep(0.001)
    os.kill(process, signal.SIGSTOP)
    try:
        sweep.evaluate(small_config(model), RunFolder(run), sweep.EvalRequest(), maker=FakeMaker())
    except UserError as error:
        if f"is in use by 'grid eval', process {process}" in str(error):
            return
        raise
    finally:
        os.kill(process, signal.SIGCONT)
    raise RuntimeError("two sweeps in one run folder")


def fresh_runs(whole: Path) -> Iterator[Path]:
    """Yield new run folders with the same adapters."""
    for number in count():
        run = whole.parent / f"killed-{number}"
        run.mkdir()
        (run / "adapters").symlink_to(whole / "adapters")
        yield run


def main(model: str, whole: str, n_kills: int, adaptive: bool = False) -> None:
    """Sweep once beside a sweep that is refused, then kill sweeps on fresh run folders; print the kills as JSON."""
    read_model_facts(Path(model))
    started = time.monotonic()
    if (process := os.fork()) == 0:
        sweep_once(Path(model), Path(whole), adaptive)
    require_refusal(Path(model), Path(whole), process)
    os.waitpid(process, 0)
    wall_s = time.monotonic() - started
    rounds = kill_rounds(
        fresh_runs(Path(whole)),
        lambda run: sweep_once(Path(model), run, adaptive),
        "scores/*.parquet",
        n_kills=n_kills,
        n_whole=10**6 if adaptive else 7 * 6,  # a part has one cell or more
        wall_s=wall_s,
    )
    print(json.dumps(rounds))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
