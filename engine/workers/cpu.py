"""The CPU twin of ``worker.ScoringWorker``: LoRA in matrix products, norms and activations fused."""

from __future__ import annotations

from typing import Any

import vllm
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

from transfergrid.engine.workers.cuda import ScoringMixin
from transfergrid.engine.workers.fused_cpu import fuse_elementwise
from transfergrid.engine.workers.version import check_vllm_version


class CpuScoringWorker(ScoringMixin, CPUWorker):  # type: ignore[misc]  # vLLM is not typed for us
    """vLLM's CPU worker that also scores steps."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Put our LoRA operators in the place of vLLM's, load the model, fuse its norms and activations."""
        check_vllm_version(vllm.__version__)
        current_platform.get_punica_wrapper = lambda: "transfergrid.engine.workers.lora_cpu.SegmentedLora"
        super().load_model(*args, **kwargs)
        fuse_elementwise(self.model_runner.model, self.model_runner.dtype)
