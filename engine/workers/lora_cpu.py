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


class SliceWeights(NamedTuple):
    """One adapter's weights for one slice of a layer's output."""

    lora_a: torch.Tensor
    """Shape [in, rank]."""
    lora_b: torch.Tensor
    """Shape [rank, width]."""
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._views: dict[tuple[int, int], tuple[SliceWeights, ...]] = {}

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
            key = lora_a_stacked[0].data_ptr(), slot
            if key not in self._views:
                self._views[key] = _slice_weights(lora_a_stacked, lora_b_stacked, output_slices, slot)
            inputs, outputs = x[start:stop], y[start:stop]
            for lora_a, lora_b, begin, end in self._views[key]:
                outputs[:, begin:end].addmm_(inputs @ lora_a, lora_b, alpha=scale)


def _slice_weights(
    lora_a_stacked: tuple[torch.Tensor, ...],
    lora_b_stacked: tuple[torch.Tensor, ...],
    output_slices: tuple[int, ...],
    slot: int,
) -> tuple[SliceWeights, ...]:
    """Return views of one slot's weights, so that they stay right when another adapter is put into the slot."""
    ends = np.cumsum(output_slices).tolist()
    starts = [0, *ends[:-1]]
    stacked = zip(lora_a_stacked, lora_b_stacked, starts, ends, strict=True)
    return tuple(SliceWeights(a[slot, 0].t(), b[slot, 0].t(), start, end) for a, b, start, end in stacked)
