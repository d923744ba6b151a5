"""LoRA on the CPU as one GEMM per run of tokens that share an adapter.

vLLM 0.32's own CPU operators gather one copy of the weights per token (``lora/ops/torch_ops/lora_ops.py``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class TokenRun(NamedTuple):
    """Neighbouring tokens of one step that share an adapter."""

    slot: int
    """Adapter slot of the stacked weights."""
    start: int
    stop: int


def token_runs(adapter_ids: tuple[int, ...], slot_adapter_ids: list[int | None]) -> tuple[TokenRun, ...]:
    """Return the runs of tokens with an adapter.

    Args:
        adapter_ids: Shape [T]: adapter id per token; 0 is the base.
        slot_adapter_ids: Adapter id that each slot holds; None is a free slot.
    """
    if not adapter_ids:
        return ()
    ids = np.asarray(adapter_ids, dtype=np.int64)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(ids)) + 1))
    stops = np.append(starts[1:], len(ids))
    slots = {adapter_id: slot for slot, adapter_id in enumerate(slot_adapter_ids) if adapter_id is not None}
    runs = zip(ids[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)
    return tuple(TokenRun(slots[adapter_id], start, stop) for adapter_id, start, stop in runs if adapter_id > 0)


class SegmentedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not typed for us
    """vLLM's CPU LoRA operators with the linear layers done run by run, in the model's dtype, in place.

    Installed by the CPU worker through ``current_platform.get_punica_wrapper``.
    """

    runs: tuple[TokenRun, ...] = ()

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Take over which token has which adapter in the step that follows."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self.runs = token_runs(mapping.index_mapping, lora_index_to_id)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Add ``scale * x A^T B^T`` to every slice of ``y``, in place.

        Args:
            y: Shape [T, sum of output_slices]: output of the base layer.
            x: Shape [T, in].
            lora_a_stacked: Per slice, shape [slots, 1, rank, in].
            lora_b_stacked: Per slice, shape [slots, 1, out, rank]; holds alpha / r already.
            scale: Factor on the update.
            output_slices: Width of every slice of ``y``.
            **kwargs: Unused; vLLM hands over buffers for other platforms.
        """
        for slot, start, stop in self.runs:
            inputs, offset = x[start:stop], 0
            for lora_a, lora_b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                shrunk = inputs @ lora_a[slot, 0].t()
                y[start:stop, offset : offset + width].addmm_(shrunk, lora_b[slot, 0].t(), alpha=scale)
                offset += width
