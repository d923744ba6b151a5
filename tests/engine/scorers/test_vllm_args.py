"""Pass-through arguments are a checked list, and the engine's version is guarded."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from transfergrid.cli import main
from transfergrid.config.settings import EngineConfig, GridConfig, ModelConfig
from transfergrid.engine.scorers.launch import plan_engine, start_vllm
from transfergrid.engine.scorers.vllm_args import (
    OWN_SETTINGS,
    PASSED_ARGUMENTS,
    check_engine_settings,
    check_remote_code,
    check_vllm_args,
)
from transfergrid.engine.workers.version import check_vllm_version
from transfergrid.grid import UserError


def test_known_arguments_pass() -> None:
    arguments = {"seed": 3, "download_dir": "/models", "cpu_offload_gb": 1.5, "trust_remote_code": False}
    assert check_vllm_args(arguments) == arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"lod_format": "auto"},
            r"unknown engine.vllm_args entry 'lod_format'; expected some of \['attention_backend'",
        ),
        ({"max_model_len": 10}, "'max_model_len'; set engine.max_model_len instead"),
        ({"seed": "3"}, "engine.vllm_args.seed is '3'; expected int"),
        ({"seed": True}, "engine.vllm_args.seed is True; expected int"),
        ({"cpu_offload_gb": "1"}, "expected int or float"),
    ],
)
def test_other_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_vllm_args(arguments)


@pytest.mark.engine
def test_all_listed_arguments_are_vllms() -> None:
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    assert PASSED_ARGUMENTS.keys() <= known
    assert OWN_SETTINGS.keys() <= known


def test_the_version_the_workers_were_written_for_passes() -> None:
    check_vllm_version("0.32.0")
    check_vllm_version("0.32.0+cu129")


@pytest.mark.parametrize("version", ["0.31.1", "0.32.1", "0.33.0rc1", "dev"])
def test_another_version_is_refused_with_a_sentence(version: str) -> None:
    with pytest.raises(UserError, match=f"vLLM '{version}' is installed, but .* written for '0.32.0'"):
        check_vllm_version(version)


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings from being changed by what a GPU of this machine has free."""
    monkeypatch.setattr("transfergrid.engine.scorers.launch.device_type", lambda: "cpu")


@pytest.mark.usefixtures("on_a_cpu")
def test_settings_with_a_name_of_their_own_arrive_in_vllms_arguments(tiny_llama: Path) -> None:
    config = EngineConfig(
        dtype="float32",
        tensor_parallel_size=2,
        quantization="fp8",
        gpu_memory_utilization=0.7,
        max_loras=3,
        token_budget=512,
        kv_cache_gib=0.25,
        vllm_args={"seed": 3, "load_format": "dummy"},
    )
    sizes, arguments = plan_engine(tiny_llama, config, max_rank=8, longest_tokens=100)
    expected = {
        "tensor_parallel_size": 2,
        "quantization": "fp8",
        "gpu_memory_utilization": 0.7,
        "max_loras": 3,
        "max_lora_rank": 8,
        "max_num_batched_tokens": 512,
        "kv_cache_memory_bytes": 2**28,
        "max_model_len": 100,
        "seed": 3,
        "load_format": "dummy",
    }
    assert expected.items() <= arguments.items()
    assert (sizes.max_loras, sizes.token_budget, sizes.kv_cache_bytes) == (3, 512, 2**28)
    assert "enable_lora" not in plan_engine(tiny_llama, config, max_rank=None, longest_tokens=100)[1]


@pytest.mark.parametrize(("free", "told"), [(40, 0.8), (30, 0.55)])
def test_vllm_is_told_of_a_share_of_the_gpu_that_is_free(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, free: int, told: float
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 40 * 2**30))
    config = EngineConfig(dtype="float32", gpu_memory_utilization=0.8)
    assert plan_engine(tiny_llama, config, max_rank=8, longest_tokens=100)[1]["gpu_memory_utilization"] == told
    nearly_full = config.model_copy(update={"gpu_memory_utilization": 0.25})
    if free < 40:
        with pytest.raises(UserError, match=r"the model does not fit: 0\.0 GiB"):
            plan_engine(tiny_llama, nearly_full, max_rank=8, longest_tokens=100)


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"quantization": "int8"}, r"quantization: int8\): Unknown quantization method: int8\. Must be one of"),
    (
        {"tensor_parallel_size": 3},
        r"tensor_parallel_size: 3\): .*heads \(4\) must be divisible by tensor parallel size \(3\); change the settings",
    ),
    ({"vllm_args": {"kv_cache_dtype": "nope"}}, r"kv_cache_dtype: nope.*\): cache_dtype: Input should be 'auto'"),
    ({"vllm_args": {"attention_backend": "NOPE"}}, r"attention_backend: NOPE.*\): Unknown attention backend: 'NOPE'"),
    ({"vllm_args": {"load_format": "nope"}}, r"load_format: nope.*\): Load format `nope` is not supported"),
)


@pytest.mark.engine
@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[next(iter(s.get("vllm_args", s))) for s, _ in REFUSED])
def test_settings_that_vllm_refuses_are_named_with_its_reason(
    tiny_llama: Path, settings: dict[str, Any], message: str
) -> None:
    config = EngineConfig(dtype="float32", **settings)
    start = "^vLLM refuses model '.*' with these settings of the engine section"
    with pytest.raises(UserError, match=rf"{start} \(.*{message}"):
        start_vllm(tiny_llama, config, longest_tokens=64)


@pytest.mark.engine
def test_settings_that_vllm_takes_pass(tiny_llama: Path) -> None:
    config = EngineConfig(dtype="float32", vllm_args={"load_format": "safetensors"})
    check_engine_settings(plan_engine(tiny_llama, config, max_rank=8, longest_tokens=64)[1])


def test_an_unknown_argument_is_refused_before_a_model_is_loaded(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match=r"unknown engine\.vllm_args entry 'lod_format'; expected some of"):
        start_vllm(tiny_llama, EngineConfig(dtype="float32", vllm_args={"lod_format": "auto"}))


@pytest.mark.engine
@pytest.mark.usefixtures("on_a_cpu")
def test_vllm_takes_the_arguments_as_they_are_given(tiny_llama: Path) -> None:
    from vllm.engine.arg_utils import EngineArgs

    config = EngineConfig(dtype="float32", gpu_memory_utilization=0.7, quantization="fp8", tensor_parallel_size=2)
    _, arguments = plan_engine(tiny_llama, config, max_rank=8, longest_tokens=100)
    read = EngineArgs(**arguments)
    assert (read.gpu_memory_utilization, read.quantization, read.tensor_parallel_size) == (0.7, "fp8", 2)


def test_code_of_a_model_runs_only_when_the_command_line_allows_it_too(tmp_path: Path) -> None:
    (tmp_path / "modeling_odd.py").write_text("raise SystemExit", encoding="utf-8")
    models = (ModelConfig(path=str(tmp_path), name="odd"), ModelConfig(path="org/odd", revision="abc", name="far"))
    config = GridConfig(models=models, engine=EngineConfig(vllm_args={"trust_remote_code": True}))
    message = (
        r"trust_remote_code runs Python code that comes with a model, with all rights of this account \(odd: "
        r"modeling_odd.py; far: the Python files of 'org/odd' at abc\); read it, then give --allow-remote-code"
    )
    with pytest.raises(UserError, match=message):
        check_remote_code(config, (), is_allowed=False)
    assert check_remote_code(config, ("odd",), is_allowed=True) == ["runs code of odd: modeling_odd.py"]
    assert check_remote_code(GridConfig(), (), is_allowed=False) == []


@pytest.mark.parametrize("command", ["eval", "serve"])
def test_a_configuration_alone_cannot_make_a_command_run_code(command: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("engine: {vllm_args: {trust_remote_code: true}}", encoding="utf-8")
    arguments = [command, "--config", str(tmp_path / "grid.yaml"), "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, "give --allow-remote-code" in result.output) == (1, True)
    assert not (tmp_path / "run").exists()


def test_no_class_is_imported_as_an_executor() -> None:
    with pytest.raises(UserError, match=r"distributed_executor_backend is 'os.path'; expected one of \['mp', 'ray'"):
        check_vllm_args({"distributed_executor_backend": "os.path"})
