"""The default way to score: one vLLM engine that takes every adapter in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.interfaces import Scorer
from transfergrid.engine.models.device import device_name
from transfergrid.engine.scorers.vllm_way import check_served, takes_no_adapters, vllm_key_parts


@dataclass(frozen=True, slots=True)
class MultiLora:
    """Makes scorers that take every adapter in turn."""

    config: EngineConfig

    check_adapter = staticmethod(partial(check_served, takes_full=True))
    device_name = staticmethod(device_name)

    def key_parts(self) -> Mapping[str, Any]:
        """Return vLLM, its version and the way."""
        return vllm_key_parts("multi-lora", self.config)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> Scorer:
        """Start the engine."""
        from transfergrid.engine.scorers.launch import start_vllm

        rank = None if takes_no_adapters(model_folder) else max_rank
        return start_vllm(model_folder, self.config, max_rank=rank, longest_tokens=longest_tokens)
