"""What the workers add to vLLM's, without an engine."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from vllm.platforms import current_platform

from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.planning.answers import first_answer
from transfergrid.engine.workers.cuda import ScoringMixin
from transfergrid.grid import UserError

pytestmark = pytest.mark.engine


@pytest.fixture
def worker() -> ScoringMixin:
    worker = ScoringMixin()
    worker._loads, worker.model_runner = {}, SimpleNamespace()
    return worker


def test_several_groups_of_the_cache_are_refused(worker: ScoringMixin) -> None:
    worker.model_runner.kv_cache_config = SimpleNamespace(kv_cache_groups=[1, 2])
    with pytest.raises(UserError, match="KV cache has 2 groups of layers; expected 1"):
        first_answer([worker.scoring_limits()])


def test_an_adapter_loaded_ahead_is_taken_once_then_loaded_anew(worker: ScoringMixin) -> None:
    worker._load_adapter_now = lambda request: f"loaded now: {request.lora_int_id}"
    ahead: Future[str] = Future()
    ahead.set_result("loaded ahead")
    worker._loads[5] = ahead
    request = SimpleNamespace(lora_int_id=5)
    assert worker._take_loaded_adapter(request) == "loaded ahead"
    assert worker._take_loaded_adapter(request) == "loaded now: 5"


def test_an_adapter_that_vllm_cannot_load_is_an_adapters_error(worker: ScoringMixin) -> None:
    def refuse(request: object) -> None:
        raise ValueError("rank 64 is greater than\n  max_lora_rank 8.")

    worker.add_lora = refuse  # type: ignore[attr-defined]
    with pytest.raises(AdapterError, match=r"cannot load adapter '7-b': rank 64 is greater than max_lora_rank 8; save"):
        first_answer([worker.adapter_modules(("7-b", 7, "/b"))])


def test_a_planned_step_sets_the_slot_and_lets_vllm_set_its_own_mapping_again(worker: ScoringMixin) -> None:
    slots: list[int | None] = []
    manager = SimpleNamespace(
        set_active_adapters=lambda requests, mapping: None,
        _adapter_manager=SimpleNamespace(
            lora_index_to_id=[4, 7],
            _last_mapping="what vLLM set last",
            punica_wrapper_mapping={"": SimpleNamespace(use_slot=slots.append)},
        ),
    )
    worker.model_runner.lora_manager = manager
    worker._use_adapter(("7-b", 7, "/b"))
    worker._use_adapter(None)
    assert slots == [1, None]
    assert manager._adapter_manager._last_mapping is None


def test_scores_of_a_step_that_was_not_launched_are_refused(worker: ScoringMixin) -> None:
    with pytest.raises(RuntimeError, match="no step was launched"):
        worker.step_scores(0)


def test_a_loaded_model_takes_our_lora_and_no_warm_up_of_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loads:
        def load_model(self) -> None:
            self.lora_class_seen = current_platform.get_punica_wrapper()
            self.model_runner = SimpleNamespace(_dummy_sampler_run=lambda hidden: pytest.fail("several GiB"))

    class Worker(ScoringMixin, Loads):
        pass

    monkeypatch.setattr(current_platform, "get_punica_wrapper", lambda: "vLLM's", raising=False)
    monkeypatch.setattr("transfergrid.engine.workers.cuda.name_decoder_weights", lambda: None)
    worker = Worker()
    worker.load_model()
    assert worker.lora_class_seen == "transfergrid.engine.workers.lora.CudaLora"
    assert worker.model_runner._dummy_sampler_run("rows") == "rows"
