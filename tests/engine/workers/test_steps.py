"""Steps launched ahead: scores and failures come back under their own ticket, spoilt blocks are cleared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.server.test_scorer import items_of
from transfergrid.engine.planning.packing import pack_step
from transfergrid.engine.planning.planner import PlanLimits, Step, plan_items
from transfergrid.engine.workers.staging import Staging
from transfergrid.engine.workers.steps import StepRunner

pytestmark = pytest.mark.engine
LIMITS = PlanLimits(max_step_tokens=64, max_step_sequences=16, n_blocks=64, block_size=16)
STEPS = plan_items(items_of(8), LIMITS).steps
HEAD = torch.randn(320, 320, generator=torch.Generator().manual_seed(0))


def hidden_of(input_ids: torch.Tensor, positions: torch.Tensor, **_: Any) -> torch.Tensor:
    """A model without attention: a row depends on its token and position."""
    return torch.nn.functional.one_hot(input_ids.long(), 320) + 0.01 * positions[:, None].float()


def make_steps(monkeypatch: pytest.MonkeyPatch, forward: Callable[..., torch.Tensor] = hidden_of) -> StepRunner:
    monkeypatch.setattr("transfergrid.engine.workers.steps.set_forward_context", lambda *a, **k: nullcontext())
    methods = {"__call__": staticmethod(forward), "compute_logits": staticmethod(lambda rows: rows @ HEAD.t())}
    group = SimpleNamespace(layer_names=["layer"], kv_cache_spec=SimpleNamespace(block_size=16))
    runner = SimpleNamespace(
        device=torch.device("cpu"),
        model=type("Model", (), methods)(),
        model_config=SimpleNamespace(get_vocab_size=lambda: 320),
        vllm_config=None,
        reorder_batch_threshold=None,
        kv_caches=[torch.ones(2 * 65, 3)],  # a block of ours is two of the kernel's
        kv_cache_config=SimpleNamespace(kv_cache_groups=[group], num_blocks=65),
        input_batch=SimpleNamespace(block_table=[SimpleNamespace(block_table=SimpleNamespace(np=np.zeros((16, 8))))]),
        attn_groups=[[SimpleNamespace(layer_names=["layer"], build_metadata=lambda common: common)]],
    )
    return StepRunner(runner)


def expected(step: Step) -> np.ndarray:
    tokens = torch.cat([torch.as_tensor(each.token_ids[each.n_computed :]) for each in step.sequences])
    positions = torch.cat([torch.arange(each.n_computed, len(each.token_ids)) for each in step.sequences])
    rows = (hidden_of(tokens, positions) @ HEAD.t()).log_softmax(-1)
    return rows[torch.as_tensor(step.score_rows).long(), torch.as_tensor(step.score_tokens).long()].numpy()


def scores(steps: StepRunner, ticket: int) -> np.ndarray:
    return np.frombuffer(steps.scores(ticket), dtype="<f4")


def test_each_ticket_gives_its_own_scores_while_another_step_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = make_steps(monkeypatch)
    waiting = steps.launch(pack_step(STEPS[0]))
    for before, step in itertools.pairwise(STEPS):
        following = steps.launch(pack_step(step))
        assert np.allclose(scores(steps, waiting), expected(before), atol=1e-5)
        waiting = following
    with pytest.raises(RuntimeError, match=r"ticket 0 is not one of the last 2 of \d+ steps"):
        steps.scores(0)


def test_a_failure_belongs_to_its_step_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    n_calls = 0

    def failing_once(**inputs: Any) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise MemoryError("no room")
        return hidden_of(**inputs)

    steps = make_steps(monkeypatch, failing_once)
    first, second = (steps.launch(pack_step(step)) for step in STEPS[:2])
    assert np.allclose(scores(steps, first), expected(STEPS[0]), atol=1e-5)
    third = steps.launch(pack_step(STEPS[2]))
    with pytest.raises(MemoryError, match="no room"):
        steps.scores(second)
    assert np.allclose(scores(steps, third), expected(STEPS[2]), atol=1e-5)


def test_blocks_are_cleared_after_a_step_that_overflowed_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    is_huge = False

    def overflowing(**inputs: Any) -> torch.Tensor:
        return hidden_of(**inputs) * (float("inf") if is_huge else 1.0)

    steps = make_steps(monkeypatch, overflowing)
    (cache,) = steps._blocks
    copied = next(step for step in STEPS if step.block_copies)
    source, target = copied.block_copies[0]
    cache[source] = 7
    steps.launch(pack_step(copied))
    assert (cache[target] == 7).all()
    assert cache.all()
    assert not steps.clear_spoilt_blocks()
    is_huge = True
    steps.launch(pack_step(STEPS[0]))
    is_huge = False
    steps.launch(pack_step(STEPS[0]))
    cleared = {block for each in STEPS[0].sequences for block in each.block_ids}
    assert {block for block in range(65) if not cache[block].any()} == cleared
    assert steps.clear_spoilt_blocks()
    assert not cache.any()


def test_sent_arrays_arrive_whole_and_stay_while_the_other_set_is_filled() -> None:
    first, second = Staging(torch.device("cpu")), Staging(torch.device("cpu"))
    arrays = {"a": np.arange(5, dtype=np.int32), "b": np.empty((0, 2), np.int64), "c": np.arange(6.0).reshape(2, 3)}
    sent = first.send(arrays)
    second.send({"a": np.full(1000, 9, dtype=np.int32)})
    for name, array in arrays.items():
        assert sent[name].shape == array.shape
        assert np.array_equal(sent[name].numpy(), array)


def test_a_set_of_buffers_is_reused_only_after_the_event_of_its_step() -> None:
    calls: list[str] = []
    staging = Staging(torch.device("cpu"))
    staging._event = SimpleNamespace(record=lambda: calls.append("record"), synchronize=lambda: calls.append("wait"))
    staging.wait()
    staging.mark()
    assert calls == ["wait", "record"]
