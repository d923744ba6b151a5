"""``grid serve`` before a model is loaded: which model, which address, which command and environment."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.engine.sweeps import small_config
from transfergrid.cli import main
from transfergrid.config.settings import EngineConfig, GridConfig, ModelConfig
from transfergrid.config.training import LoraConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE
from transfergrid.engine.server import launch as serve
from transfergrid.engine.server.launch import (
    ServeOptions,
    ServerStart,
    check_address,
    choose_model,
    is_loopback,
    may_be_refused,
    prepare_server,
    require_free,
)
from transfergrid.grid import UserError


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def options(root: Path, **changes: Any) -> ServeOptions:
    settings = {"host": "127.0.0.1", "port": free_port(), "api_key": None, "adapter_root": root}
    return ServeOptions(**{**settings, **changes})


def start(config: GridConfig, root: Path, **changes: Any) -> ServerStart:
    return prepare_server(config, (), options(root, **changes))


def value(start: ServerStart, flag: str) -> str:
    return start.arguments[start.arguments.index(flag) + 1]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_address(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "grid.example", "localhost.example", ""])
def test_any_other_address_needs_a_key(host: str) -> None:
    with pytest.raises(UserError, match=r"can be reached from other machines; expected 127\.0\.0\.1, or an API key"):
        check_address(host, None)
    check_address(host, "key")


@pytest.mark.parametrize("key", ["", " ", "a\nb", "ключ"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="the API key is empty or not plain text; set TRANSFERGRID_API_KEY"):
        check_address("127.0.0.1", key)


@pytest.mark.engine
def test_settings_that_vllm_refuses_are_told_before_the_server_starts(tiny_llama: Path, tmp_path: Path) -> None:
    config = small_config(tiny_llama, engine=EngineConfig(dtype="float32", quantization="int8"))
    with pytest.raises(UserError, match=r"vLLM refuses model .*quantization: int8\): Unknown quantization method"):
        start(config, tmp_path)


@pytest.mark.parametrize(
    ("settings", "refusable"),
    [
        ({}, False),
        ({"dtype": "bfloat16", "max_loras": 3, "gpu_memory_utilization": 0.5}, False),
        ({"dtype": "float16"}, True),
        ({"quantization": "fp8"}, True),
        ({"tensor_parallel_size": 2}, True),
        ({"vllm_args": {"seed": 1}}, True),
    ],
)
def test_only_settings_that_vllm_might_refuse_cost_its_import_before_the_server(
    settings: dict[str, Any], refusable: bool
) -> None:
    assert may_be_refused(EngineConfig(**settings)) is refusable


def test_one_model_is_chosen_and_several_are_listed() -> None:
    config = GridConfig(models=(ModelConfig(path="org/a"), ModelConfig(path="org/b")))
    assert choose_model(config, ("b",)).path == "org/b"
    with pytest.raises(UserError, match=r"holds one model, 2 are asked for; give --model with one of \['a', 'b'\]"):
        choose_model(config, ())
    with pytest.raises(UserError, match=r"unknown model 'c'; expected one of \['a', 'b'\]"):
        choose_model(config, ("c",))
    assert choose_model(GridConfig(models=(ModelConfig(path="org/a"),)), ()).name == "a"


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen at '127.0.0.1' port {port}: .*; give another --port"):
            require_free("127.0.0.1", port)


def test_the_command_names_the_model_our_workers_and_the_guard(tiny_llama: Path, tmp_path: Path) -> None:
    found = start(small_config(tiny_llama), tmp_path)
    assert found.arguments[:3] == (sys.executable, "-m", "transfergrid.engine.server.process")
    assert value(found, "--model") == str(tiny_llama)
    assert value(found, "--served-model-name") == "tiny"
    assert value(found, "--worker-cls").startswith("transfergrid.engine.")
    assert value(found, "--middleware") == "transfergrid.engine.server.guard.GuardMiddleware"
    assert value(found, "--allowed-origins") == "[]"
    assert value(found, "--max-model-len") == "2048"
    assert {"--enable-scale-out", "--enable-lora", "--no-enable-prefix-caching"} <= set(found.arguments)
    assert found.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert found.environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"  # vLLM would keep a core from the model


def test_settings_reach_the_command(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transfergrid.engine.scorers.launch.engine_device_type", lambda: "cpu"
    )  # a GPU's share depends on its memory
    monkeypatch.setattr(serve, "check_engine_settings", lambda arguments: None)  # vLLM takes fp8 with bfloat16 only
    engine = EngineConfig(
        dtype="float32",
        tensor_parallel_size=2,
        gpu_memory_utilization=0.7,
        quantization="fp8",
        max_model_len=256,
        vllm_args={"seed": 3, "hf_overrides": {"a": 1}, "trust_remote_code": False},
    )
    found = start(small_config(tiny_llama, engine=engine), tmp_path)
    for flag, expected in (
        ("--dtype", "float32"),
        ("--tensor-parallel-size", "2"),
        ("--gpu-memory-utilization", "0.7"),
        ("--quantization", "fp8"),
        ("--max-model-len", "256"),
        ("--seed", "3"),
        ("--hf-overrides", '{"a": 1}'),
    ):
        assert value(found, flag) == expected
    assert "--no-trust-remote-code" in found.arguments


def test_there_is_room_for_the_largest_adapter(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    config = small_config(tiny_llama, lora=LoraConfig(r=4))
    assert value(start(config, tmp_path), "--max-lora-rank") == "8"
    for name, content in (
        ("a", {"r": 30}),
        ("b", {"r": 8, "rank_pattern": {"q": 60}}),
        ("c", {"r": "?"}),
        ("d", {"r": 900}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG_FILE).write_text(json.dumps(content), encoding="utf-8")
    assert value(start(config, tmp_path), "--max-lora-rank") == "64"


def test_the_key_is_in_the_environment_only_and_vllms_back_doors_are_shut(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_API_KEY", "other")
    monkeypatch.setenv("VLLM_LORA_RESOLVER_CACHE_DIR", "/")
    found = start(small_config(tiny_llama), tmp_path, api_key="secret-word")
    assert not any("secret-word" in argument for argument in found.arguments)
    assert found.environment["VLLM_API_KEY"] == "secret-word"
    setup = json.loads(found.environment[serve.SETUP_VARIABLE])
    assert (setup["api_key"], setup["adapter_root"], setup["model"]) == ("secret-word", str(tmp_path), "tiny")
    assert not {"VLLM_SERVER_DEV_MODE", "VLLM_LORA_RESOLVER_CACHE_DIR"} & set(found.environment)
    assert "VLLM_API_KEY" not in start(small_config(tiny_llama), tmp_path).environment


def test_the_message_says_how_to_use_it(tiny_llama: Path, tmp_path: Path) -> None:
    found = start(small_config(tiny_llama), tmp_path, host="::1")
    assert f"grid eval --server {found.url}" in found.__rich__().plain
    assert found.url.startswith("http://[::1]:")


def test_it_becomes_the_server(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *arguments: called.append(arguments))
    found = start(small_config(tiny_llama), tmp_path)
    found.run()
    environment = {**found.environment, "TRANSFERGRID_SERVER_PID": str(os.getpid())}
    assert called == [(sys.executable, found.arguments, environment)]


def grid_serve(folder: Path, model: Path, *arguments: str, names: tuple[str, ...] = ("tiny",)) -> Result:
    models = [{"path": str(model), "name": name} for name in names]
    (folder / "grid.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    command = ["serve", "--config", str(folder / "grid.yaml"), "--run", str(folder / "run"), *arguments]
    return CliRunner().invoke(main, command)


def test_the_command_line_refuses_in_one_sentence(tiny_llama: Path, tmp_path: Path) -> None:
    for arguments, names, message in (
        (("--host", "0.0.0.0"), ("tiny",), "grid: host '0.0.0.0' can be reached from other machines"),
        ((), ("a", "b"), "grid: a server holds one model, 2 are asked for; give --model with one of ['a', 'b']"),
        (("--api-key", ""), ("tiny",), "grid: the API key is empty"),
    ):
        result = grid_serve(tmp_path, tiny_llama, *arguments, names=names)
        assert result.exit_code == 1
        assert result.stderr.startswith(message)


def test_the_command_line_serves_the_runs_adapters(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *arguments: called.append(arguments))
    monkeypatch.setenv("TRANSFERGRID_API_KEY", "from-the-environment")
    result = grid_serve(tmp_path, tiny_llama, "--port", str(free_port()))
    assert result.exit_code == 0, result.output
    setup = json.loads(called[0][2][serve.SETUP_VARIABLE])
    assert (setup["adapter_root"], setup["api_key"]) == (str(tmp_path / "run" / "adapters"), "from-the-environment")


@pytest.mark.engine
def test_vllm_reads_the_command_as_the_embedded_engine_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from transfergrid.engine.scorers.launch import plan_engine

    engine = EngineConfig(dtype="float32", token_budget=256, kv_cache_gib=0.05, max_loras=2, vllm_args={"seed": 3})
    found = start(small_config(tiny_llama, engine=engine), tmp_path)
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(list(found.arguments[3:]))
    read = AsyncEngineArgs.from_cli_args(parsed)
    _, expected = plan_engine(tiny_llama, engine, max_rank=32, longest_tokens=2048)
    expected["skip_tokenizer_init"] = False
    assert {name: getattr(read, name) for name in expected} == expected
    assert (parsed.host, parsed.enable_scale_out, parsed.allowed_origins) == ("127.0.0.1", True, [])
