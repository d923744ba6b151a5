"""Prompts with solved items against lm-evaluation-harness's sampler first_n: the same tokens in every request."""

from __future__ import annotations

from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from tests.parity.harness import harness_task, rows_file
from tests.parity.test_lm_eval_tokenisation import make_recorder
from transfergrid.benchmarks.cells import load_items, with_shots
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.prompts import PromptConfig
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.models.tokenizer import TokenisationSettings, load_tokenizer
from transfergrid.engine.planning.planner import PlanLimits, plan_items
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.grid import Cell

CELLS = (Cell("arc_challenge", "hi"), Cell("global_mmlu", "zh"))
N_ITEMS = 4
_DATA = rows_file(CELLS[0]).parents[2]


def our_items(tokenizer: object, cell: Cell, shots: int, *, chat: bool, turns: bool) -> list[TokenisedItem]:
    test, train = (load_items(_DATA, get_task(cell.task), cell.language, split, "eval") for split in ("test", "train"))
    items = with_shots(test[:N_ITEMS], train, PromptConfig(shots=shots))
    settings = TokenisationSettings(max_length=10_000, chat_template=chat, shots_as_turns=turns)
    results = tokenise_items(tokenizer, items, settings).results
    assert all(isinstance(result, TokenisedItem) for result in results)
    return [result for result in results if isinstance(result, TokenisedItem)]


@pytest.mark.parametrize("shots", [0, 1, 5])
@pytest.mark.parametrize(("chat", "turns"), [(False, False), (True, False), (True, True)])
def test_prompts_with_shots_have_the_harness_tokens(
    shots: int, chat: bool, turns: bool, tiny_llama: Path, harness_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "a machine")  # it takes seconds
    tokenizer = load_tokenizer(tiny_llama)
    recorder = make_recorder(tiny_llama, tokenizer)
    for cell in CELLS:
        task = harness_task(cell, harness_cache)
        files = {split: str(rows_file(cell).with_name(f"{split}.jsonl")) for split in ("train", "test")}
        task["dataset_kwargs"]["data_files"] = files
        results = lm_eval.simple_evaluate(
            model=recorder,
            tasks=[{**task, "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}}],
            task_manager=TaskManager(include_defaults=False),
            num_fewshot=shots,
            limit=N_ITEMS,
            apply_chat_template=chat,
            fewshot_as_multiturn=turns,
            bootstrap_iters=0,
        )
        samples = sorted(results["samples"][task["task"]], key=lambda sample: sample["doc_id"])
        expected = [[recorder.seen[pair] for pair in sample["arguments"]] for sample in samples]
        ours = our_items(tokenizer, cell, shots, chat=chat, turns=turns)
        assert [[(item.context, tokens) for tokens in item.continuations] for item in ours] == expected


def test_the_planner_computes_the_shots_of_a_cell_once(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    limits = PlanLimits(max_step_tokens=512, max_step_sequences=64, n_blocks=2000, block_size=32)
    bare, shown = (
        plan_items(our_items(tokenizer, CELLS[0], shots, chat=False, turns=False), limits) for shots in (0, 5)
    )
    items = our_items(tokenizer, CELLS[0], 5, chat=False, turns=False)
    head = len(items[0].context) - len(our_items(tokenizer, CELLS[0], 0, chat=False, turns=False)[0].context)
    n_requests = sum(len(item.continuations) for item in items)
    assert shown.n_repeated_tokens == bare.n_repeated_tokens + head * n_requests
    assert shown.n_computed_tokens <= bare.n_computed_tokens + head + N_ITEMS * 16  # a common beginning may be shorter
