"""The CPU twin of ``worker.ScoringWorker``: LoRA in GEMMs, and freed memory kept for the next step."""

from __future__ import annotations

import ctypes
from typing import Any

import vllm
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

from transfergrid.engine.vllm_args import check_vllm_version
from transfergrid.engine.worker import ScoringMixin

_M_TRIM_THRESHOLD = -1  # from glibc's malloc.h
_M_MMAP_MAX = -4


class CpuScoringWorker(ScoringMixin, CPUWorker):  # type: ignore[misc]  # vLLM is not typed for us
    """vLLM's CPU worker that also scores steps."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Put our LoRA operators in the place of vLLM's, then load the model."""
        check_vllm_version(vllm.__version__)
        keep_freed_memory()
        current_platform.get_punica_wrapper = lambda: "transfergrid.engine.lora_cpu.SegmentedLora"
        super().load_model(*args, **kwargs)


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of giving it back after every large tensor.

    Activations are tens of MiB per layer; mapped anew each time, their page faults cost more than the layer's norms.

    Returns:
        Whether the allocator took the setting; other C libraries have none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
