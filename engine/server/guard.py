"""The outermost layer of ``grid serve``: who may come in, which adapters may be loaded, and our own routes.

An ASGI middleware that vLLM's server takes by name (``--middleware``). Everything it lets through goes to vLLM's own
application, whose key check only covers some of its paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.adapters.folder import read_adapter
from transfergrid.engine.adapters.lora_config import read_lora_config
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.models.device import device_name, engine_device_type
from transfergrid.engine.planning.answers import first_answer
from transfergrid.engine.planning.packing import AdapterReference
from transfergrid.engine.planning.packing_checks import check_packed_step
from transfergrid.engine.planning.planner import PlanLimits
from transfergrid.engine.server.confine import confine
from transfergrid.engine.server.passes import Passes, describe_adapter
from transfergrid.engine.server.wire import (
    ADAPTER_PATH,
    API_VERSION,
    FACTS_PATH,
    INSTANCE_HEADER,
    LOAD_PATH,
    SCORE_PATH,
    STEPS_TYPE,
    ServerFacts,
    unpack_frames,
)
from transfergrid.engine.workers.version import vllm_version
from transfergrid.store.json_text import MAX_DEPTH, JsonError, parse_json

SETUP_VARIABLE = "TRANSFERGRID_SERVER_SETUP"
"""Environment variable with the ``GuardSetup`` as JSON."""
OPEN_PATHS = ("/health",)
"""Paths that need no key."""
ALLOWED_PATHS = ("/health", "/version", "/metrics", "/tokenize", "/detokenize")
ALLOWED_PREFIXES = ("/v1/", "/inference/v1/", "/grid/v1/")
MAX_LOAD_BYTES = 2**16
MAX_BODY_BYTES = 2**25
MAX_SCORE_BYTES = 2**29

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSetup:
    """What ``grid serve`` tells the server's process."""

    api_key: str | None
    adapter_root: str
    model: str
    revision: str
    vllm_args: dict[str, Any]


class RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


class GuardMiddleware:
    """Checks every request of the server, and answers those under ``/grid/v1``."""

    def __init__(self, app: ASGIApp, setup: GuardSetup | None = None) -> None:
        """Read the setup from the environment unless it is given.

        Raises:
            RuntimeError: If the environment has none.
        """
        if setup is None and SETUP_VARIABLE not in os.environ:
            raise RuntimeError(f"{SETUP_VARIABLE} is not set; this middleware is started by 'grid serve'")
        self._setup = setup or GuardSetup(**json.loads(os.environ[SETUP_VARIABLE]))
        self._app = app
        self._instance = secrets.token_hex(8)
        self._passes = Passes()
        self._facts: ServerFacts | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, hand it on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._handle(Request(scope, receive), receive, send)

    async def _handle(self, request: Request, receive: Receive, send: Send) -> None:
        scope = request.scope
        try:
            self._check_caller(request)
            response = await self._own_route(request)
            if response is None and request.method == "POST":
                body = await self._checked_body(request)
                receive = _replay(body, receive)
                scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"content-length"]}
        except RefusalError as refusal:
            error = {"message": str(refusal), "type": "Refused", "code": refusal.status}
            response = JSONResponse({"error": error}, refusal.status, refusal.headers)
        except ClientDisconnect:
            return
        await (response or self._app)(scope, receive, send)

    def _check_caller(self, request: Request) -> None:
        """Refuse a wrong key, a path that is not served, and pages of other sites that reach a keyless server."""
        path, key = request.scope["path"], self._setup.api_key
        if key is None and _host_name(request.headers.get("host", "")) not in _LOOPBACK_NAMES:
            raise RefusalError(403, "a server without an API key answers to 127.0.0.1 and localhost only")
        if key is None and _comes_from_another_site(request):
            raise RefusalError(403, "a server without an API key takes no requests of web pages; start it with a key")
        if key is not None and path not in OPEN_PATHS and not _bears(request.headers.get("authorization", ""), key):
            raise RefusalError(401, "missing or wrong API key; send 'Authorization: Bearer KEY'")
        if path not in ALLOWED_PATHS and not path.startswith(ALLOWED_PREFIXES):
            raise RefusalError(404, f"no path {path!r}; expected one of {[*ALLOWED_PATHS, *ALLOWED_PREFIXES]}")

    async def _checked_body(self, request: Request) -> bytes:
        """Return the body of a request that vLLM answers; JSON that its parser would stumble over is refused."""
        if request.scope["path"] == LOAD_PATH:
            body = await _read(request, MAX_LOAD_BYTES)
            return await run_in_threadpool(confine_body, body, Path(self._setup.adapter_root))
        body = await _read(request, MAX_BODY_BYTES)
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
            _parsed(body)
        return body

    async def _own_route(self, request: Request) -> Response | None:
        """Return the answer to one of our own paths; None for vLLM's."""
        match (request.method, request.scope["path"]):
            case ("GET", path) if path == FACTS_PATH:
                return JSONResponse((await self._describe(request)).as_json())
            case ("GET", path) if path == ADAPTER_PATH:
                return await self._adapter(request)
            case ("POST", path) if path == SCORE_PATH:
                return await self._score(request)
        return None

    async def _adapter(self, request: Request) -> Response:
        adapter = _loaded_adapter(request)
        if adapter is None:
            raise RefusalError(400, "no adapter named; expected ?adapter=NAME")
        return JSONResponse(await describe_adapter(_state(request).engine_client, adapter))

    async def _score(self, request: Request) -> Response:
        """Check a pass and start to stream it."""
        facts = await self._describe(request)
        if request.headers.get(INSTANCE_HEADER) != facts.instance:
            raise RefusalError(409, f"this server is {facts.instance!r}; plan again with what GET {FACTS_PATH} says")
        if request.headers.get("content-type") != STEPS_TYPE:
            raise RefusalError(415, f"expected a body of type {STEPS_TYPE}")
        if self._passes.is_full:
            raise RefusalError(503, f"{self._passes.n_waiting} passes wait already; come back later", retry_after_s=5)
        adapter = _loaded_adapter(request)
        limits = PlanLimits(**facts.limits)
        try:
            steps = [payload for _, payload in unpack_frames([await _read(request, MAX_SCORE_BYTES)])]
            for step in steps:
                check_packed_step(step, limits, vocab_size=facts.vocab_size, max_model_len=facts.max_model_len)
        except (ValueError, ScoringError) as error:
            raise RefusalError(400, str(error)) from error
        frames = self._passes.run(_state(request).engine_client, steps, adapter)
        return StreamingResponse(frames, media_type=STEPS_TYPE)

    async def _describe(self, request: Request) -> ServerFacts:
        """Return the facts, asked from the engine the first time."""
        if self._facts is None:
            engine, setup = _state(request).engine_client, self._setup
            config = engine.vllm_config
            limits = first_answer(await engine.collective_rpc("scoring_limits"))
            self._facts = ServerFacts(
                api_version=API_VERSION,
                instance=self._instance,
                vllm_version=vllm_version(),
                model=setup.model,
                revision=setup.revision,
                dtype=str(config.model_config.dtype).removeprefix("torch."),
                quantization=config.model_config.quantization,
                vllm_args=setup.vllm_args,
                adapter_root=setup.adapter_root,
                max_lora_rank=config.lora_config.max_lora_rank,
                max_model_len=config.model_config.max_model_len,
                vocab_size=config.model_config.get_vocab_size(),
                limits=limits,
                device=engine_device_type(),
                device_name=device_name(),
            )
        return self._facts


def confine_body(body: bytes, root: Path) -> bytes:
    """Return a request to load an adapter with its path resolved; reads the adapter's files.

    Raises:
        RefusalError: If the body is no such request, the adapter does not lie under the root, or it is damaged, holds
            NaN or infinity (which would spoil the answers to others), or is of a kind that vLLM does not serve.
    """
    fields = _parsed(body)
    if not isinstance(fields, dict) or not isinstance(fields.get("lora_path"), str):
        raise RefusalError(400, "expected a JSON object with 'lora_name' and 'lora_path'")
    try:
        folder = confine(fields["lora_path"], root)
    except AdapterError as error:
        raise RefusalError(403, str(error)) from error
    try:
        name = str(fields.get("lora_name"))
        read_lora_config(read_adapter(folder, name).config, name)
    except AdapterError as error:
        raise RefusalError(400, str(error)) from error
    return json.dumps({**fields, "lora_path": str(folder)}).encode()


def _parsed(body: bytes) -> Any:
    try:
        return parse_json(body, "the body")
    except JsonError as error:
        raise RefusalError(400, f"the body is not JSON: {error.reason}") from error


def _loaded_adapter(request: Request) -> AdapterReference | None:
    """Return the adapter that a request names; None for the base."""
    name = request.query_params.get("adapter")
    if name is None:
        return None
    loaded = _state(request).openai_serving_models.lora_requests.get(name)
    if loaded is None:
        raise RefusalError(404, f"adapter {name!r} is not loaded; POST {LOAD_PATH} first")
    return loaded.lora_name, loaded.lora_int_id, loaded.lora_path


def _state(request: Request) -> Any:
    return request.scope["app"].state


def _bears(header: str, key: str) -> bool:
    """Whether an Authorization header bears the key; takes the same time however much of it is right."""
    scheme, _, token = header.partition(" ")
    found, expected = (hashlib.sha256(text.encode()).digest() for text in (token.strip(), key))
    return secrets.compare_digest(found, expected) and scheme.lower() == "bearer"


def _comes_from_another_site(request: Request) -> bool:
    """Whether a browser says that a page of another origin sends a request, or does not say which page does."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers.get('host', '')}":
        return True
    return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _read(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        RefusalError: If it is longer than the limit.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RefusalError(413, f"the body is longer than {limit} bytes; send less at once")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives a body which was read already, and then what comes after it."""
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        return next(messages, None) or await receive()

    return replayed
