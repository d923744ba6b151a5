"""Stock tasks of lm-evaluation-harness, with rows written for the tests, are cells that ask what the harness asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tests.parity.families import TASKS, serve_rows
from transfergrid.benchmarks.harness.index import TaskIndex
from transfergrid.benchmarks.materialise import materialise
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.engine.harness.requests import RequestScorer, encode_pairs
from transfergrid.engine.interfaces import asked_parts
from transfergrid.engine.models.tokenizer import encode_texts, load_tokenizer
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.engine.work.base_model import tokenisation_settings
from transfergrid.engine.work.cells import load_cell
from transfergrid.grid import Cell

_WINDOW = 32
"""Tokens of a window of whole texts, which are longer."""


@pytest.fixture(scope="module")
def index(manager: Any) -> Iterator[TaskIndex]:
    with pytest.MonkeyPatch.context() as patch:
        serve_rows(patch)
        index = TaskIndex(manager)
        patch.setattr(TaskIndex, "read", classmethod(lambda cls, path=None, *, stock=True: index))
        yield index


def config_of(name: str, **prompts: Any) -> GridConfig:
    task = HarnessTask(lm_eval=name, languages={"sw": "sw"})
    engine = {"max_model_len": _WINDOW} if name == "wikitext" else {}
    return GridConfig(harness_tasks={"mine": task}, tasks=("mine",), prompts=prompts, engine=engine)


def peer_windows(tokens: Sequence[int], prefix: int) -> list[tuple[Sequence[int], Sequence[int]]]:
    windows = get_rolling_token_windows(list(tokens), prefix_token=prefix, max_seq_len=_WINDOW, context_len=1)
    return [(tuple(context), tuple(text)) for context, text in map(make_disjoint_window, windows)]


@pytest.mark.parametrize("prompts", [{"eval_chat_template": False}, {"shots": 2, "shots_as_turns": True}])
def test_every_stock_family_is_a_cell(
    index: TaskIndex, tiny_llama: Path, tmp_path: Path, prompts: dict[str, Any]
) -> None:
    from transfergrid.engine.harness.model import TransferGridLM

    tokenizer = load_tokenizer(tiny_llama)
    model = TransferGridLM(RequestScorer(None, tokenizer, tiny_llama))  # type: ignore[arg-type]
    chat, shots = prompts.get("eval_chat_template", True), prompts.get("shots", 0)
    for name in sorted(TASKS):
        config = config_of(name, **prompts)
        materialise(config, tmp_path / name)
        items = load_cell(config, tmp_path / name, Cell("mine", "sw")).items
        cell = tokenise_items(tokenizer, items, tokenisation_settings(config, tiny_llama)).results
        asked = []
        for task in index.load(name).tasks.values():
            if task.config.num_fewshot != 0:
                task.set_config("num_fewshot", shots or task.config.num_fewshot or 0)
            task.set_fewshot_seed(1234)
            task.build_all_requests(
                apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=model.apply_chat_template
            )
            pairs = [request.args for request in task.instances]
            if task.OUTPUT_TYPE == "loglikelihood_rolling":
                texts = encode_texts(tokenizer, [text for (text,) in pairs])
                asked += [pair for text in texts for pair in peer_windows(text, model.prefix_token_id)]
            else:
                asked += encode_pairs(tokenizer, pairs)[0]
        parts = asked_parts(cell)  # type: ignore[arg-type]
        assert [(part.context, each) for part in parts for each in part.continuations] == asked, name
