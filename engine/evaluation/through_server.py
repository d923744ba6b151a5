"""The way of ``grid eval --server``: what the server is goes into the run keys, as if its engine ran here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.sweep import EvalRequest
from transfergrid.engine.interfaces import Adapter, EngineLostError
from transfergrid.engine.models.resolve import model_revision, resolve_model
from transfergrid.engine.scorers.multi_lora import MultiLora, vllm_key_parts
from transfergrid.engine.server.client import RetryPolicy, ServerClient
from transfergrid.engine.server.scorer import ServerScorer
from transfergrid.engine.server.wire import ServerFacts
from transfergrid.grid import UserError

_FIRST_CONTACT = RetryPolicy(attempts=3)


@dataclass(frozen=True, slots=True)
class Server:
    """Backend whose engine is a running ``grid serve``."""

    url: str
    api_key: str | None
    facts: ServerFacts
    """What the server said it is when it was first asked."""
    config: GridConfig
    """With the server's settings in place of what the configuration leaves open."""

    def key_parts(self) -> Mapping[str, Any]:
        """Return the server's vLLM; the way is that of one engine here, whose numbers these are."""
        return vllm_key_parts("multi-lora", self.config.engine, version=self.facts.vllm_version)

    def check_adapter(self, folder: Path, model_folder: Path, *, name: str) -> Adapter:
        """Check that vLLM serves an adapter and that it fits the base.

        Raises:
            AdapterError: If it is missing, broken, not served, or of another base.
        """
        return MultiLora(self.config.engine).check_adapter(folder, model_folder, name=name)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> ServerScorer:
        """Meet the server again.

        Raises:
            EngineLostError: If it is gone or not what it was.
            UserError: If an item or an adapter is too large for it.
        """
        facts = self.facts
        if longest_tokens > facts.max_model_len:
            raise UserError(
                f"the items need {longest_tokens} tokens, the server at {self.url} takes {facts.max_model_len}; start "
                f"'grid serve' with engine.max_model_len: {longest_tokens} or more"
            )
        if max_rank > facts.max_lora_rank:
            raise UserError(
                f"the adapters have rank {max_rank}, the server at {self.url} takes {facts.max_lora_rank}; start "
                "'grid serve' again: it makes room for lora.r and for the adapters that lie in its folder by then"
            )
        client = ServerClient(self.url, self.api_key)
        found = client.facts()
        if replace(found, instance=facts.instance) != facts:
            raise EngineLostError(f"the server at {self.url} was started again with other settings; try again")
        return ServerScorer(client, found)


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
