"""``grid serve``: vLLM's OpenAI-compatible server with our workers and our guard, as one command and environment."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
from rich.text import Text

from transfergrid.config.settings import EngineConfig, GridConfig, ModelConfig
from transfergrid.config.values import MAX_LORA_RANK
from transfergrid.engine.adapters.folder import CONFIG_FILE
from transfergrid.engine.adapters.null import NULL_RANK
from transfergrid.engine.models.device import engine_device_type
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.resolve import model_revision, resolve_model
from transfergrid.engine.scorers.launch import plan_engine
from transfergrid.engine.scorers.vllm_args import check_engine_settings
from transfergrid.engine.server.guard import SETUP_VARIABLE, GuardSetup
from transfergrid.engine.server.process import SERVER_PID_VARIABLE
from transfergrid.engine.workers.version import require_tested, vllm_version
from transfergrid.grid import UserError
from transfergrid.store.json_text import JsonError, read_json

API_KEY_VARIABLE = "TRANSFERGRID_API_KEY"
MAX_SERVED_TOKENS = 4096
"""Longest sequence that is served where ``engine.max_model_len`` is not set, if the model takes as many."""

_SERVER = "transfergrid.engine.server.process"
_GUARD = "transfergrid.engine.server.guard.GuardMiddleware"
# vLLM's doors that the guard does not watch: development routes, pickled arguments, adapters found elsewhere
_DROPPED_VARIABLES = (
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_API_KEY",
    "VLLM_LORA_RESOLVER_CACHE_DIR",
    "VLLM_LORA_RESOLVER_HF_REPO_LIST",
    "VLLM_SERVER_DEV_MODE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Where a server listens and what it lets in."""

    host: str
    port: int
    api_key: str | None
    adapter_root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStart:
    """A server that is ready to be started."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    model: str
    url: str
    adapter_root: Path

    def __rich__(self) -> Text:
        """Say what is started."""
        return Text(
            f"{self.model} is being loaded; once GET {self.url}/health answers: grid eval --server {self.url}\n"
            f"adapters are loaded from {self.adapter_root} only; Ctrl-C stops the server"
        )

    def rows(self) -> pl.DataFrame:
        """Return one row: model, URL and folder of the adapters."""
        return pl.DataFrame([self.as_json()])

    def as_json(self) -> dict[str, str]:
        """Return model, URL and folder of the adapters."""
        return {"model": self.model, "url": self.url, "adapter_root": str(self.adapter_root)}

    def run(self) -> NoReturn:
        """Become the server: this process ends with it, and signals reach it directly."""
        environment = {**self.environment, SERVER_PID_VARIABLE: str(os.getpid())}
        os.execve(sys.executable, self.arguments, environment)


def prepare_server(config: GridConfig, models: Sequence[str], options: ServeOptions) -> ServerStart:
    """Check everything that can be checked before a model is loaded.

    Raises:
        UserError: If the model is not one of the configuration's, the address is open to others without a key or is
            taken, the model does not fit, or vLLM refuses the engine's settings.
    """
    check_address(options.host, options.api_key)
    model = choose_model(config, models)
    require_free(options.host, options.port)
    require_tested(vllm_version(), engine_device_type())
    folder = resolve_model(model.path, model.revision)
    root = options.adapter_root.resolve()
    longest = min(read_model_facts(folder).max_positions, MAX_SERVED_TOKENS)
    rank = max(config.lora.r, NULL_RANK, *_ranks(root))
    _, arguments = plan_engine(folder, config.engine, max_rank=rank, longest_tokens=longest)
    setup = GuardSetup(
        api_key=options.api_key,
        adapter_root=str(root),
        model=model.name,
        revision=model_revision(folder),
        vllm_args=dict(config.engine.vllm_args),
    )
    environment = server_environment(os.environ, setup)
    if may_be_refused(config.engine):
        check_engine_settings(arguments)
    host = f"[{options.host}]" if ":" in options.host else options.host
    return ServerStart(
        arguments=(sys.executable, "-m", _SERVER, *server_arguments(arguments, model.name, options)),
        environment=environment,
        model=model.name,
        url=f"http://{host}:{options.port}",
        adapter_root=root,
    )


def may_be_refused(engine: EngineConfig) -> bool:
    """Whether settings are made that vLLM takes for some models only; the defaults are not worth its import twice."""
    return bool(engine.quantization or engine.tensor_parallel_size > 1 or engine.vllm_args or engine.dtype == "float16")


def choose_model(config: GridConfig, names: Sequence[str]) -> ModelConfig:
    """Return the one model that is served.

    Raises:
        UserError: If a name is not in the configuration, or not exactly one model is left.
    """
    known = [model.name for model in config.models]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"unknown model {unknown[0]!r}; expected one of {known}")
    wanted = list(dict.fromkeys(names)) or known
    if len(wanted) != 1:
        raise UserError(f"a server holds one model, {len(wanted)} are asked for; give --model with one of {wanted}")
    return next(model for model in config.models if model.name == wanted[0])


def check_address(host: str, api_key: str | None) -> None:
    """Refuse an address that others can reach unless there is a key.

    Raises:
        UserError: If the key is empty, or missing where one is needed.
    """
    if api_key is not None and not (api_key.strip() and api_key.isascii() and api_key.isprintable()):
        raise UserError(f"the API key is empty or not plain text; set {API_KEY_VARIABLE} to a long random word")
    if api_key is None and not is_loopback(host):
        raise UserError(
            f"host {host!r} can be reached from other machines; expected 127.0.0.1, or an API key: set "
            f"{API_KEY_VARIABLE} or give --api-key"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; names other than ``localhost`` count as open."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened at.

    Raises:
        UserError: If it is taken or not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise UserError(f"cannot listen at {host!r} port {port}: {error.strerror}; give another --port") from error


def server_arguments(engine: Mapping[str, Any], name: str, options: ServeOptions) -> tuple[str, ...]:
    """Return the server's command line."""
    server = {
        **engine,
        "skip_tokenizer_init": False,  # other clients of the server send text
        "served_model_name": name,
        "host": options.host,
        "port": options.port,
        "allowed_origins": [],  # no web page may send requests
        "middleware": _GUARD,
        "enable_scale_out": True,
        "disable_uvicorn_access_log": True,
        "uvicorn_log_level": "warning",
    }
    return tuple(part for key, value in server.items() for part in _flag(key, value))


def server_environment(environment: Mapping[str, str], setup: GuardSetup) -> dict[str, str]:
    """Return the server's environment: secrets go there, where other users' ``ps`` does not show them."""
    kept = {name: value for name, value in environment.items() if name not in _DROPPED_VARIABLES}
    kept.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    kept.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")  # the HTTP side rests while a pass runs
    key = {} if setup.api_key is None else {"VLLM_API_KEY": setup.api_key}
    return {
        **kept,
        **key,
        SETUP_VARIABLE: json.dumps(asdict(setup)),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }


def _flag(key: str, value: Any) -> tuple[str, ...]:
    """Return one argument in the words of vLLM's command line."""
    flag = f"--{key.replace('_', '-')}"
    if value is None:
        return ()
    if isinstance(value, bool):
        return (flag,) if value else (f"--no-{flag[2:]}",)
    if key == "allowed_origins" or isinstance(value, dict):
        return flag, json.dumps(value)
    if isinstance(value, list | tuple):
        return flag, *map(str, value)
    return flag, str(value)


def _ranks(root: Path) -> list[int]:
    """Return the ranks of the adapters that are under a folder already, as far as they can be read."""
    ranks = []
    for path in root.rglob(CONFIG_FILE):
        try:
            config = read_json(path)
            ranks.append(max(int(rank) for rank in (config["r"], *(config.get("rank_pattern") or {}).values())))
        except (JsonError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return [rank for rank in ranks if 1 <= rank <= MAX_LORA_RANK]
