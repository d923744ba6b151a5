"""The engine ``server``: what a running ``grid serve`` is goes into the run keys, as if its engine ran here."""

from __future__ import annotations

from dataclasses import replace

from transfergrid.config.settings import GridConfig
from transfergrid.engine.models.resolve import model_revision, resolve_model
from transfergrid.engine.server.client import ServerClient
from transfergrid.engine.server.maker import Server
from transfergrid.engine.server.retries import RetryPolicy
from transfergrid.engine.server.wire import ServerFacts
from transfergrid.engine.work.request import ChosenEngine, EngineOptions, EvalRequest
from transfergrid.grid import UserError

_FIRST_CONTACT = RetryPolicy(attempts=3)


def connect(config: GridConfig, request: EvalRequest, options: EngineOptions) -> ChosenEngine:
    """Ask a server what it is and check that it can do the request.

    A request that names no model means the one the server holds.

    Returns:
        The maker, the configuration with the server's settings where it leaves them open, and the request for the
        server's model.

    Raises:
        UserError: If no address is given, there is no such server, or it holds another model or computes otherwise.
    """
    if request.noise_floor:
        raise UserError("--noise-floor needs an adapter of its own, which a server does not load; leave out --server")
    if options.server_url is None:
        raise UserError("--engine server scores through a running 'grid serve'; give its address with --server URL")
    client = ServerClient(options.server_url, options.api_key, retries=_FIRST_CONTACT)
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
    narrowing = replace(request.narrowing, models=(facts.model,))
    return ChosenEngine(
        Server(client.url, options.api_key, facts, engine),
        config.model_copy(update={"engine": engine}),
        replace(request, narrowing=narrowing),
    )


def _check_model(config: GridConfig, request: EvalRequest, facts: ServerFacts, url: str) -> None:
    """Check that the server's model is one of the configuration's, is asked for, and has the same weights."""
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
