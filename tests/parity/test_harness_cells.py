"""Stock tasks of lm-evaluation-harness, with rows written for the tests, are cells that ask what the harness asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parity.families import TASKS, serve_rows
from transfergrid.benchmarks.harness import TaskIndex
from transfergrid.benchmarks.materialise import materialise
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.engine.harness.requests import RequestScorer, encode_pairs
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.engine.work.base_model import tokenisation_settings
from transfergrid.engine.work.cells import load_cell
from transfergrid.grid import Cell, UserError

_REFUSED = {
    "lambada_openai": "has output_type 'loglikelihood'",
    "winogrande": "asks every document with several contexts",
    "wikitext": "has output_type 'loglikelihood_rolling'",
}


@pytest.fixture(scope="module")
def index(manager: Any) -> Iterator[TaskIndex]:
    with pytest.MonkeyPatch.context() as patch:
        serve_rows(patch)
        index = TaskIndex(manager)
        patch.setattr(TaskIndex, "read", classmethod(lambda cls, path=None, *, stock=True: index))
        yield index


def config_of(name: str, **prompts: Any) -> GridConfig:
    task = HarnessTask(lm_eval=name, languages={"sw": "sw"})
    return GridConfig(harness_tasks={"mine": task}, tasks=("mine",), prompts=prompts)


@pytest.mark.parametrize("prompts", [{"eval_chat_template": False}, {"shots": 2, "shots_as_turns": True}])
def test_every_stock_family_that_chooses_an_answer_is_a_cell(
    index: TaskIndex, tiny_llama: Path, tmp_path: Path, prompts: dict[str, Any]
) -> None:
    from transfergrid.engine.harness.model import TransferGridLM

    tokenizer = load_tokenizer(tiny_llama)
    model = TransferGridLM(RequestScorer(None, tokenizer, tiny_llama))  # type: ignore[arg-type]
    chat, shots = prompts.get("eval_chat_template", True), prompts.get("shots", 0)
    for name in sorted({*TASKS} - {*_REFUSED}):
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
            asked += encode_pairs(tokenizer, [request.args for request in task.instances])[0]
        found = [(item.context, each) for item in cell for each in item.continuations]  # type: ignore[union-attr]
        assert found == asked, name


@pytest.mark.parametrize(("name", "reason"), _REFUSED.items())
def test_families_that_no_cell_takes_are_refused(index: TaskIndex, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        materialise(config_of(name), tmp_path)
