"""HTTP to ``grid serve``: the key, and a sentence for everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from transfergrid.engine.interfaces import AdapterError, EngineLostError
from transfergrid.engine.server.retries import RetryPolicy, TransientError
from transfergrid.engine.server.wire import (
    ADAPTER_PATH,
    API_VERSION,
    FACTS_PATH,
    FAILED,
    INSTANCE_HEADER,
    LOAD_PATH,
    SCORE_PATH,
    SCORES,
    STEPS_TYPE,
    UNLOAD_PATH,
    ServerFacts,
    pack_steps,
    unpack_frames,
)
from transfergrid.engine.workers.version import TESTED_ON
from transfergrid.grid import UserError

TRANSIENT_STATUSES = (429, 502, 503, 504)
_TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # a server that works on a pass sends something every few seconds
_LIMITS = httpx.Limits(max_connections=2)  # one pass, and one adapter being loaded ahead


class MissingAdapterError(Exception):
    """The server does not hold the adapter, or not any more."""


class ServerChangedError(Exception):
    """The server was started again after the steps were planned."""


class ServerClient:
    """The requests of one client to one server."""

    def __init__(self, url: str, api_key: str | None, *, retries: RetryPolicy | None = None) -> None:
        """Prepare a client; sends nothing yet.

        Raises:
            UserError: If the URL is not one of a server.
        """
        self.url = _checked_url(url)
        self._has_key = api_key is not None
        self._retries = retries or RetryPolicy()
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=_TIMEOUT, limits=_LIMITS, trust_env=not _is_local(self.url)
        )

    def facts(self) -> ServerFacts:
        """Ask what the server is.

        Raises:
            EngineLostError: If it does not answer, is no ``grid serve``, refuses the key, or runs another version.
        """
        answer = self._send("GET", FACTS_PATH)
        try:
            raw = answer.json() if answer.status_code == 200 else {}
            facts = ServerFacts.from_json(raw)
        except ValueError as error:
            raise EngineLostError(
                f"{self.url} answers, but is not this version's 'grid serve' (GET {FACTS_PATH} gives status "
                f"{answer.status_code}); give the URL that 'grid serve' shows"
            ) from error
        if facts.api_version != API_VERSION or facts.vllm_version not in TESTED_ON:
            raise EngineLostError(
                f"the server at {self.url} runs vLLM {facts.vllm_version!r} and interface {facts.api_version}; expected"
                f" one of {sorted(TESTED_ON)} and {API_VERSION}: install the same version of transfergrid on both sides"
            )
        return facts

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter; one that is loaded under this name already stays.

        Raises:
            AdapterError: If the server refuses it or cannot load it.
            EngineLostError: If the server does not answer.
        """
        answer = self._send("POST", LOAD_PATH, json={"lora_name": name, "lora_path": str(folder.resolve())})
        message = _message(answer)
        if answer.status_code != 200 and "already been loaded" not in message:
            raise AdapterError(f"the server does not load adapter {name!r}: {message}")

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter, once: where that fails, the server drops it when it needs the room.

        Raises:
            EngineLostError: If the server refuses the key.
        """
        with suppress(TransientError):
            self._send_once("POST", UNLOAD_PATH, json={"lora_name": name})

    def describe_adapter(self, name: str) -> tuple[list[str], str]:
        """Return the layers that carry a loaded adapter, and the hash of its files.

        Raises:
            MissingAdapterError: If it is not loaded.
            AdapterError: If the server cannot say.
            EngineLostError: If the server does not answer.
        """
        answer = self._send("GET", ADAPTER_PATH, params={"adapter": name})
        if answer.status_code == 404:
            raise MissingAdapterError(name)
        if answer.status_code != 200:
            raise AdapterError(f"the server does not describe adapter {name!r}: {_message(answer)}")
        found = answer.json()
        return found["modules"], found["content_hash"]

    def score(self, steps: Sequence[bytes], *, adapter: str | None, instance: str) -> Iterator[bytes]:
        """Yield the log-probabilities of every step; not tried again by itself.

        ``instance`` is the start of the server that the steps were planned for.

        Raises:
            TransientError: If the connection or the engine breaks.
            MissingAdapterError: If the adapter is not loaded.
            ServerChangedError: If the server was started again.
            RuntimeError: If the engine fails.
        """
        headers = {INSTANCE_HEADER: instance, "Content-Type": STEPS_TYPE}
        parameters = {} if adapter is None else {"adapter": adapter}
        try:
            with self._http.stream(
                "POST", SCORE_PATH, content=pack_steps(steps), headers=headers, params=parameters
            ) as answer:
                if answer.status_code != 200:
                    answer.read()
                    self._refused(answer)
                yield from _scores(answer, len(steps))
        except httpx.TransportError as error:
            raise TransientError(_cause(error)) from error

    def pause(self, n_failures: int, error: Exception) -> None:
        """Wait before a pass is sent again.

        Raises:
            EngineLostError: If it failed too often.
        """
        try:
            self._retries.pause(n_failures, error)
        except (TransientError, MissingAdapterError, ServerChangedError):
            raise self._lost(error) from error

    def _lost(self, cause: Exception) -> EngineLostError:
        return EngineLostError(
            f"no answer from the server at {self.url} in {self._retries.attempts} attempts ({cause}); start "
            "'grid serve' there and give the same command again: finished cells are kept"
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a small request, again where that may help."""
        try:
            return self._retries.run(lambda: self._send_once(method, path, **options))
        except TransientError as error:
            raise self._lost(error) from error

    def _send_once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise TransientError(_cause(error)) from error
        self._check_access(answer)
        return answer

    def _check_access(self, answer: httpx.Response) -> None:
        """Raise for statuses that mean the same on every path."""
        if answer.status_code in TRANSIENT_STATUSES:
            raise TransientError(f"status {answer.status_code}: {_message(answer)}")
        if answer.status_code == 401:
            fault = "refuses this API key" if self._has_key else "needs an API key"
            raise EngineLostError(
                f"the server at {self.url} {fault}; set TRANSFERGRID_API_KEY or give --api-key with the key that "
                "'grid serve' was started with"
            )

    def _refused(self, answer: httpx.Response) -> None:
        """Raise the error of a pass that the server did not take."""
        self._check_access(answer)
        if answer.status_code == 404:
            raise MissingAdapterError(_message(answer))
        if answer.status_code == 409:
            raise ServerChangedError(_message(answer))
        raise RuntimeError(f"the server did not take a pass (status {answer.status_code}): {_message(answer)}")


def _scores(answer: httpx.Response, n_steps: int) -> Iterator[bytes]:
    """Yield the scores in an answer's frames.

    Raises:
        TransientError: If the answer ends too early, or the engine is gone.
        RuntimeError: If the engine failed.
    """
    n_scores = 0
    try:
        for kind, payload in unpack_frames(answer.iter_bytes()):
            if kind == SCORES:
                n_scores += 1
                yield payload
            elif kind == FAILED:
                failure = json.loads(payload)
                if failure["is_lost"]:
                    raise TransientError(failure["message"])
                raise RuntimeError(f"the server's engine failed: {failure['message']}")
    except ValueError as error:
        raise TransientError(f"the answer broke off: {error}") from error
    if n_scores != n_steps:
        raise TransientError(f"the answer broke off after {n_scores} of {n_steps} steps")


def _checked_url(url: str) -> str:
    """Return a URL without what follows its path.

    Raises:
        UserError: If it has no host, or a scheme other than http and https.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(
            f"server {url!r} is not a URL ({error}); expected for example 'http://127.0.0.1:8000'"
        ) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"server {url!r} is not a URL; expected for example 'http://127.0.0.1:8000'")
    return str(parsed).rstrip("/").removesuffix("/v1")


def _is_local(url: str) -> bool:
    """Whether a URL is this machine's, which no proxy can reach."""
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


def _cause(error: httpx.TransportError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _message(answer: httpx.Response) -> str:
    """Return what an error's body says, in whichever of vLLM's shapes."""
    try:
        error = answer.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
