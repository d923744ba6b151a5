"""The engine's start and end: what cannot start says why in one sentence, and nothing of a closed engine stays."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models import make_tiny_tokenizer
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.scorers.launch import start_llm, start_vllm
from transfergrid.engine.scorers.vllm import close_llm
from transfergrid.grid import UserError

pytestmark = pytest.mark.engine
PARALLEL = {"tensor_parallel_size": 2}


def failing_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr("vllm.LLM", fail)


def test_memory_that_does_not_suffice_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0 has ..."))
    with pytest.raises(UserError, match="the model does not fit: CUDA out of memory; lower engine"):
        start_llm({"tensor_parallel_size": 1})


def test_workers_that_do_not_start_name_the_setting_and_the_main_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, RuntimeError("WorkerProc initialization failed."))
    with pytest.raises(UserError, match=r"tensor_parallel_size 2 did not start: WorkerProc .*; .* 'if __name__ =="):
        start_llm(PARALLEL)


def test_a_kind_of_model_that_vllm_does_not_serve_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, ValueError("XForCausalLM does not\nsupport LoRA yet."))
    with pytest.raises(UserError, match=r"in '/x' here: ValueError: XForCausalLM does not support LoRA yet\.; 'grid"):
        start_llm({"tensor_parallel_size": 1, "model": "/x"})


def test_a_model_whose_attention_has_no_kernel_here_is_one_sentence(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer(tmp_path)
    shape = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer))).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"Unsupported CPU attention configuration: head_dim=16 .* --engine reference"):
        start_vllm(tmp_path, EngineConfig(dtype="float32", kv_cache_gib=0.05), longest_tokens=64)


def test_an_engine_that_is_refused_after_its_start_does_not_stay_in_memory(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr("transfergrid.engine.scorers.launch.start_llm", lambda arguments: "engine")
    monkeypatch.setattr("transfergrid.engine.scorers.launch.close_llm", ended.append)
    for error, message in ((UserError("two groups of layers"), "^two groups"), (KeyError("x"), "does not serve .*'x'")):

        def refuse(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("transfergrid.engine.scorers.launch.VllmScorer", refuse)
        with pytest.raises(UserError, match=message):
            start_vllm(tiny_llama, EngineConfig(dtype="float32", kv_cache_gib=0.05), longest_tokens=64)
    assert ended == ["engine", "engine"]


def test_a_spawned_worker_that_runs_the_script_again_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, AssertionError("an engine was started"))
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(UserError, match="a worker of the engine ran the script that starts it; put what it does under"):
        start_llm(PARALLEL)


def test_a_vllm_of_another_build_than_its_package_says_is_refused(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm.platforms.current_platform", SimpleNamespace(device_type="tpu"))
    with pytest.raises(UserError, match=r"vLLM runs on 'tpu' here, .* expected one for \['cpu', 'cuda'\]"):
        start_vllm(tiny_llama, EngineConfig(dtype="float32", kv_cache_gib=0.05), longest_tokens=64)


def test_addresses_that_tritons_operators_keep_go_with_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SimpleNamespace(_LORA_A_PTR_DICT={(1,): "slots of a"}, _LORA_B_PTR_DICT={(2,): "slots of b"})
    ended: list[str] = []
    monkeypatch.setitem(sys.modules, "vllm.lora.ops.triton_ops.utils", kept)
    monkeypatch.setattr("vllm.distributed.parallel_state.cleanup_dist_env_and_memory", lambda: ended.append("groups"))
    core = SimpleNamespace(shutdown=lambda: ended.append("core"))
    close_llm(SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core)))
    close_llm(None)
    assert ended == ["core", "groups"]
    assert not kept._LORA_A_PTR_DICT
    assert not kept._LORA_B_PTR_DICT
