"""A server without vLLM: our guard in front of a stand-in for vLLM's application, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from transfergrid.engine.adapters.folder import WEIGHTS_FILE
from transfergrid.engine.adapters.weights import read_weights
from transfergrid.engine.models.shapes import layer_name
from transfergrid.engine.planning.packing import unpack_step
from transfergrid.engine.server.guard import GuardMiddleware, GuardSetup
from transfergrid.engine.server.wire import SCORE_PATH

LIMITS = {"max_step_tokens": 64, "max_step_sequences": 16, "n_blocks": 64, "block_size": 16}
VOCABULARY = 320


def made_up_logprobs(packed: bytes, folder: str | None) -> bytes:
    """Log-probabilities that depend on the scored tokens and the adapter's folder only."""
    shift = 0.0 if folder is None else 1.0 + len(Path(folder).name)
    return (-(unpack_step(packed).score_tokens + shift) / 8).astype("<f4").tobytes()


@dataclass
class FakeEngine:
    """As much of vLLM's EngineClient as the guard uses; notes what happened."""

    calls: list[str] = field(default_factory=list)
    step_s: float = 0.0
    scores: dict[int, bytes] = field(default_factory=dict)
    """By ticket, not taken yet."""
    failure: Exception | None = None
    dies_after: int | None = None
    """Steps after which the engine is dead; None: it lives."""
    errored: bool = False
    vllm_config: Any = field(
        default_factory=lambda: SimpleNamespace(
            model_config=SimpleNamespace(
                dtype="torch.float32", quantization=None, max_model_len=128, get_vocab_size=lambda: VOCABULARY
            ),
            lora_config=SimpleNamespace(max_lora_rank=8),
        )
    )

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        self.calls.append(f"pause {mode}")

    async def resume_generation(self) -> None:
        self.calls.append("resume")

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        if method == "scoring_limits":
            return [LIMITS, LIMITS]
        if method == "adapter_modules":
            largest = read_weights(Path(args[0][2]) / WEIGHTS_FILE).largest
            return [sorted({layer_name(key.partition(".lora_")[0]) for key, value in largest.items() if value})]
        if method == "step_scores":
            return [None, self.scores.pop(args[0])]
        if method == "clear_spoilt_blocks":
            self.calls.append("clear")
            return [False]
        self.calls.append("step")
        await asyncio.sleep(self.step_s)
        if self.dies_after is not None:
            self.dies_after -= 1
            self.errored = self.dies_after < 0
            if self.errored:
                raise ConnectionError("the engine died")
        if self.failure is not None:
            raise self.failure
        packed, adapter_reference = args
        ticket = self.calls.count("step")
        self.scores[ticket] = made_up_logprobs(packed, None if adapter_reference is None else adapter_reference[2])
        return [ticket, ticket]


class Faults:
    """Spoils the next scoring requests: a status, ``drop`` before anything of an answer, or ``cut`` in the middle of one."""

    def __init__(self, app: Any, script: list[int | str]) -> None:
        self.app, self.script = app, script

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != SCORE_PATH or not self.script:
            await self.app(scope, receive, send)
            return
        fault = self.script.pop(0)
        if isinstance(fault, int):
            await JSONResponse({"error": {"message": "busy"}}, fault)(scope, receive, send)
            return
        n_sent, last = 0, 1 if fault == "drop" else 3

        async def send_some(message: Any) -> None:
            nonlocal n_sent
            n_sent += message["type"] == "http.response.body"
            if n_sent == last:
                raise ConnectionError("cut by the test")
            await send(message)

        await self.app(scope, receive, send_some)


@dataclass
class FakeServer:
    url: str
    engine: FakeEngine
    loaded: dict[str, Any]
    faults: list[int | str]
    log: list[str]
    """Adapters that were loaded (+) and unloaded (-), in order."""


def _application(engine: FakeEngine, setup: GuardSetup, server: FakeServer) -> Any:
    loaded = server.loaded

    async def load(request: Request) -> JSONResponse:
        body = json.loads(await request.body())
        if body["lora_name"] in loaded:
            return JSONResponse({"error": {"message": f"{body['lora_name']} has already been loaded."}}, 400)
        loaded[body["lora_name"]] = SimpleNamespace(lora_int_id=len(server.log) + 1, **body)
        server.log.append(f"+{body['lora_name']}")
        return JSONResponse("ok")

    async def unload(request: Request) -> JSONResponse:
        name = json.loads(await request.body())["lora_name"]
        server.log.append(f"-{name}")
        return JSONResponse("ok", 200 if loaded.pop(name, None) else 404)

    async def health(request: Request) -> JSONResponse:
        return JSONResponse("ok")

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/adapters", health, methods=["POST"]),
            Route("/v1/models", health),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
        ]
    )
    app.state.engine_client = engine
    app.state.openai_serving_models = SimpleNamespace(lora_requests=loaded)
    app.add_middleware(GuardMiddleware, setup=setup)
    return Faults(app, server.faults)


@contextmanager
def serve_fake(root: Path, *, api_key: str | None = None, port: int = 0, **setup: Any) -> Iterator[FakeServer]:
    """Run a server in a thread until the block ends."""
    engine = FakeEngine()
    settings = {"model": "tiny", "revision": "r1", "vllm_args": {}, **setup}
    server = FakeServer("", engine, {}, [], [])
    app = _application(engine, GuardSetup(api_key=api_key, adapter_root=str(root), **settings), server)
    runner = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not runner.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the fake server did not start"
        time.sleep(0.01)
    server.url = f"http://127.0.0.1:{runner.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        runner.should_exit = True
        thread.join(20)
