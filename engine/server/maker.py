"""The maker of scorers that ask a running server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.interfaces import EngineLostError
from transfergrid.engine.scorers.vllm_way import check_served, vllm_key_parts
from transfergrid.engine.server.client import ServerClient
from transfergrid.engine.server.scorer import ServerScorer
from transfergrid.engine.server.wire import ServerFacts
from transfergrid.grid import UserError


@dataclass(frozen=True, slots=True)
class Server:
    """Makes scorers whose engine is a running ``grid serve``."""

    url: str
    api_key: str | None
    facts: ServerFacts
    """What the server said it is when it was first asked."""
    config: EngineConfig
    """With the server's settings in place of what the configuration leaves open."""

    check_adapter = staticmethod(check_served)

    def device_name(self) -> str:
        """Return the name of the server's device."""
        return self.facts.device_name

    def key_parts(self) -> Mapping[str, Any]:
        """Return the server's vLLM; the way is that of one engine here, whose numbers these are."""
        facts = self.facts
        return vllm_key_parts("multi-lora", self.config, version=facts.vllm_version, device=facts.device)

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
