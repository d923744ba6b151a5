"""What the ways to score on vLLM share: the parts of a run key, and the check of an adapter that is served as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.decoder import read_decoder_config
from transfergrid.engine.models.device import device_name, engine_device_type
from transfergrid.engine.models.shapes import LinearShapes, read_linear_shapes
from transfergrid.engine.workers.version import vllm_version

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


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


@dataclass(frozen=True, slots=True)
class VllmWay:
    """What makers of scorers on a vLLM of this process have in common."""

    config: EngineConfig
    way = ""
    """How the run key names it."""
    device_name = staticmethod(device_name)

    def key_parts(self) -> Mapping[str, Any]:
        """Return vLLM, its version and the way."""
        return vllm_key_parts(self.way, self.config)


def check_served(folder: Path, model_folder: Path, *, name: str, takes_full: bool = False) -> Adapter:
    """Check that an adapter is served as it is, and that it fits the base.

    Raises:
        AdapterError: If it is missing, broken, not a plain LoRA, of another base, or of a base that takes none here.
    """
    if takes_no_adapters(model_folder):
        raise AdapterError(
            f"adapter {name!r} is of a base with experts, for which vLLM serves adapters on a GPU only; "
            "'grid eval --sequential' scores it here"
        )
    return check_adapter(folder, _linear_shapes(model_folder), name=name, takes_full=takes_full)


def takes_no_adapters(model_folder: Path) -> bool:
    """Whether a base is a mixture of experts on the CPU: vLLM's layers for its adapters need Triton."""
    config = read_decoder_config(model_folder)
    return engine_device_type() == "cpu" and any(config.get(key) for key in _EXPERTS)


@lru_cache(maxsize=1)
def _linear_shapes(model_folder: Path) -> LinearShapes:
    return read_linear_shapes(model_folder)
