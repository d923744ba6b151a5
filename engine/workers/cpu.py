"""The CPU twin of ``cuda.ScoringWorker``: LoRA in matrix products, norms and activations fused."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker

from transfergrid.engine.workers.cuda import ScoringMixin
from transfergrid.engine.workers.fused_cpu import fuse_elementwise


class CpuScoringWorker(ScoringMixin, CPUWorker):  # type: ignore[misc]  # vLLM is not typed for us
    """vLLM's CPU worker that also scores steps."""

    lora_class = "transfergrid.engine.workers.lora.CpuLora"

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, join LoRA's products on one input, fuse norms and activations."""
        super().load_model(*args, **kwargs)
        manager = getattr(self.model_runner, "lora_manager", None)
        for layer in () if manager is None else manager._adapter_manager.modules.values():
            layer.punica_wrapper.join_inputs(layer)
        fuse_elementwise(self.model_runner.model, self.model_runner.dtype)
