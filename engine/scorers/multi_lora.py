"""Ways to put a base model to work for a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.interfaces import Adapter, AdapterError, Scorer
from transfergrid.engine.models.decoder import read_decoder_config
from transfergrid.engine.models.device import engine_device_type
from transfergrid.engine.models.shapes import LinearShapes, read_linear_shapes
from transfergrid.engine.workers.version import vllm_version

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class MultiLora:
    """One vLLM engine that takes every adapter in turn."""

    config: EngineConfig

    def key_parts(self) -> Mapping[str, Any]:
        """Return vLLM, its version and the way."""
        return vllm_key_parts("multi-lora", self.config)

    def check_adapter(self, folder: Path, model_folder: Path, *, name: str) -> Adapter:
        """Check that vLLM serves an adapter and that it fits the base.

        Raises:
            AdapterError: If it is missing, broken, not served, or of another base.
        """
        if _takes_no_adapters(model_folder):
            raise AdapterError(
                f"adapter {name!r} is of a base with experts, for which vLLM serves adapters on a GPU only; "
                "'grid eval --sequential' scores it here"
            )
        return check_adapter(folder, _linear_shapes(model_folder), name=name)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> Scorer:
        """Start the engine."""
        from transfergrid.engine.scorers.launch import start_vllm

        rank = None if _takes_no_adapters(model_folder) else max_rank
        return start_vllm(model_folder, self.config, max_rank=rank, longest_tokens=longest_tokens)


def _takes_no_adapters(model_folder: Path) -> bool:
    """Whether a base is a mixture of experts on the CPU: vLLM's layers for its adapters need Triton."""
    config = read_decoder_config(model_folder)
    return engine_device_type() == "cpu" and any(config.get(key) for key in _EXPERTS)


@lru_cache(maxsize=1)
def _linear_shapes(model_folder: Path) -> LinearShapes:
    return read_linear_shapes(model_folder)


def vllm_key_parts(
    way: str, config: EngineConfig, *, version: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Return the parts of a run key that a vLLM engine decides; version and device are those found here unless given.

    The device is named where it is not the CPU, which keys without one mean.
    """
    device = device or engine_device_type()
    return {
        **({} if device == "cpu" else {"device": device}),
        "name": "vllm",
        "version": version or vllm_version(),
        "way": way,
        "arguments": dict(config.vllm_args),
    }
