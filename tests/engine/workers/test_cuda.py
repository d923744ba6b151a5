"""What the workers add to vLLM's, without an engine."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from transfergrid.engine.planning.planner import Step, StepSequence
from transfergrid.engine.workers.cuda import ScoringMixin, _new_blocks, _without_sampling
from transfergrid.grid import UserError

pytestmark = pytest.mark.engine


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int32)


@pytest.fixture
def worker() -> ScoringMixin:
    """A worker whose runner has put the second of three sequences first."""
    worker = ScoringMixin()
    worker._request_ids, worker._running, worker._loads = iter(range(99)), set(), {}
    worker.model_runner = SimpleNamespace(
        input_batch=SimpleNamespace(req_id_to_index={"a": 1, "b": 0, "c": 2}),
        query_start_loc=SimpleNamespace(np=np.array([0, 2, 5, 9])),
    )
    return worker


def step() -> Step:
    """Sequences a, b, c with 3, 2 and 4 new tokens."""
    sequences = (
        StepSequence(ints(1, 2, 3), 0, (1,)),
        StepSequence(ints(1, 2, 3, 4), 2, (1,)),
        StepSequence(ints(5, 6, 7, 8), 0, (2,)),
    )
    return Step(sequences, ((1, 3),), ints(0, 2, 3, 4, 8, 8), ints(*range(6)), ints(*range(6)))


def test_rows_follow_sequences_that_the_attention_backend_reordered(worker: ScoringMixin) -> None:
    # runner's rows: b 0..1, a 2..4, c 5..8
    assert worker._runner_rows(step(), ["a", "b", "c"]).tolist() == [2, 4, 0, 1, 8, 8]


def test_a_step_finishes_the_sequences_of_the_one_before(worker: ScoringMixin) -> None:
    first = worker._scheduler_output(step(), None)
    second = worker._scheduler_output(step(), None)
    assert first.finished_req_ids == set()
    assert second.finished_req_ids == set(first.num_scheduled_tokens)
    assert not second.finished_req_ids & set(second.num_scheduled_tokens)
    assert list(first.num_scheduled_tokens.values()) == [3, 2, 4]
    assert first.total_num_scheduled_tokens == 9
    assert [(copy.src_block_id, copy.dst_block_id) for copy in first.kv_cache_block_copies] == [(1, 3)]
    assert first.scheduled_new_reqs[1].num_computed_tokens == 2


def test_several_groups_of_the_cache_are_refused(worker: ScoringMixin) -> None:
    worker.model_runner.kv_cache_config = SimpleNamespace(kv_cache_groups=[1, 2])
    with pytest.raises(UserError, match="KV cache has 2 groups of layers; expected 1"):
        worker.scoring_limits()


def test_an_adapter_loaded_ahead_is_taken_once_then_loaded_anew(worker: ScoringMixin) -> None:
    worker._load_adapter_now = lambda request: f"loaded now: {request.lora_int_id}"
    ahead: Future[str] = Future()
    ahead.set_result("loaded ahead")
    worker._loads[5] = ahead
    request = SimpleNamespace(lora_int_id=5)
    assert worker._take_loaded_adapter(request) == "loaded ahead"
    assert worker._take_loaded_adapter(request) == "loaded now: 5"


def test_blocks_that_a_step_is_the_first_to_write_are_cleared_but_not_the_sources_of_its_copies(
    worker: ScoringMixin,
) -> None:
    assert _new_blocks(step(), 32) == [2]  # a writes block 1 first, but it is copied; b goes on inside it
    ones = torch.ones(8, 3)  # 4 blocks of ours, 2 of the kernel's each
    worker.model_runner.kv_caches = [ones]
    worker.model_runner.kv_cache_config = SimpleNamespace(num_blocks=4)
    worker._clear_blocks([2])
    assert ones.sum(1).tolist() == [3, 3, 3, 3, 0, 0, 3, 3]
    assert not worker.clear_spoilt_blocks()
    worker._has_spoilt_blocks = True
    assert worker.clear_spoilt_blocks()
    assert not ones.any()
    assert not worker.clear_spoilt_blocks()


def test_sampling_is_off_only_while_a_step_runs() -> None:
    class Model:
        def compute_logits(self, hidden: int) -> int:
            return hidden + 1

    model = Model()
    with pytest.raises(KeyError), _without_sampling(model):
        assert model.compute_logits(1) is None
        raise KeyError
    assert model.compute_logits(1) == 2
