"""The way of ``grid eval --server``: what the server is goes into the run keys, as if its engine ran here."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from transfergrid.config.settings import GridConfig
from transfergrid.engine.models.resolve import model_revision, resolve_model
from transfergrid.engine.server.backend import Server
from transfergrid.engine.server.client import RetryPolicy, ServerClient
from transfergrid.engine.server.wire import ServerFacts
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import UserError

_FIRST_CONTACT = RetryPolicy(attempts=3)


class ServerWork(NamedTuple):
    """A server, and the request cut down to the model that it holds."""

    backend: Server
    request: EvalRequest


def connect(config: GridConfig, request: EvalRequest, url: str, *, api_key: str | None) -> ServerWork:
    """Ask a server what it is and see that it can do what is asked for.

    Args:
        config: The configuration.
        request: What to score; no model named means the one the server holds.
        url: Where it listens.
        api_key: Its key, if it has one.

    Returns:
        The backend, with a configuration whose open settings are the server's, and the request.

    Raises:
        UserError: If there is no such server, or it holds another model or computes otherwise.
    """
    if request.noise_floor:
        raise UserError("--noise-floor needs an adapter of its own, which a server does not load; leave out --server")
    client = ServerClient(url, api_key, retries=_FIRST_CONTACT)
    try:
        facts = client.facts()
    finally:
        client.close()
    _check_model(config, request, facts, client.url)
    engine = config.engine
    for name, wanted, found in (
        ("dtype", None if engine.dtype == "auto" else engine.dtype, facts.dtype),
        ("quantization", engine.quantization, facts.quantization),
    ):
        if wanted is not None and wanted != found:
            raise UserError(
                f"engine.{name} is {wanted!r} here and {found!r} at {client.url}; start 'grid serve' with the same "
                "configuration"
            )
    engine = engine.model_copy(
        update={"dtype": facts.dtype, "quantization": facts.quantization, "vllm_args": facts.vllm_args}
    )
    backend = Server(client.url, api_key, facts, config.model_copy(update={"engine": engine}))
    narrowing = replace(request.narrowing, models=(facts.model,))
    return ServerWork(backend, replace(request, narrowing=narrowing))


def _check_model(config: GridConfig, request: EvalRequest, facts: ServerFacts, url: str) -> None:
    """See that the server's model is one of the configuration's, is asked for, and has the same weights."""
    known = {model.name: model for model in config.models}
    asked = request.narrowing.models or tuple(known)
    if facts.model not in known or facts.model not in asked or len(request.narrowing.models) > 1:
        raise UserError(
            f"the server at {url} holds {facts.model!r}, asked for are {list(asked)}; start 'grid serve --model' with "
            "one of them, or name the server's with --model"
        )
    model = known[facts.model]
    revision = model_revision(resolve_model(model.path, model.revision))
    if revision != facts.revision:
        raise UserError(
            f"model {facts.model!r} has revision {revision[:12]!r} here and {facts.revision[:12]!r} at {url}; let both "
            "have the same weights"
        )
