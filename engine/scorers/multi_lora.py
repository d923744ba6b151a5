"""The default way to score: one vLLM engine that takes every adapter in turn."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from transfergrid.engine.interfaces import Scorer
from transfergrid.engine.scorers.vllm_way import VllmWay, check_served, takes_no_adapters


class MultiLora(VllmWay):
    """Makes scorers that take every adapter in turn."""

    way = "multi-lora"
    check_adapter = staticmethod(partial(check_served, takes_full=True))

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> Scorer:
        """Start the engine."""
        from transfergrid.engine.scorers.launch import start_vllm

        rank = None if takes_no_adapters(model_folder) else max_rank
        return start_vllm(model_folder, self.config, max_rank=rank, longest_tokens=longest_tokens)
