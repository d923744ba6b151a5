"""LoRA as plain matrix products over runs of tokens that share an adapter, the same on every device.

A planned step has one adapter: its slot is known, and nothing is looked up per token. vLLM 0.32's own operators do not
serve here: on the CPU they gather one copy of the weights per token (``lora/ops/torch_ops/lora_ops.py``), on CUDA they
take half precision only and add partial sums in an order that changes from run to run (split-K with atomics,
``lora/ops/triton_ops``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

_ANY = 2**62  # a run over all tokens, however many


class TokenRun(NamedTuple):
    """Neighbouring tokens of one step that share an adapter."""

    slot: int
    """Adapter slot of the stacked weights."""
    start: int
    stop: int


class SlotWeights(NamedTuple):
    """One adapter's weights for one layer, all slices of its output."""

    lora_a: tuple[torch.Tensor, ...]
    """Shape [in, rank] per slice; or one of shape [in, slices x rank] where they lie side by side."""
    lora_b: tuple[torch.Tensor, ...]
    """Shape [rank, width] per slice."""
    bounds: tuple[tuple[int, int], ...]
    """Columns of the output per slice."""


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


class SegmentedLora:
    """Linear layers' LoRA run by run, in the model's dtype, in place; stands before one of vLLM's wrappers.

    Installed by our workers through ``current_platform.get_punica_wrapper``.
    """

    runs: tuple[TokenRun, ...] | None = ()
    """Runs with an adapter in the step that follows; None leaves it to vLLM's operators."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._views: dict[tuple[int, int], SlotWeights] = {}
        self._joined: dict[int, torch.Tensor] = {}

    def use_slot(self, slot: int | None) -> None:
        """Apply one slot's adapter to all tokens from now on; None applies none."""
        self.runs = () if slot is None else (TokenRun(slot, 0, _ANY),)

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Take over which token of vLLM's scheduler has which adapter in the step that follows."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)  # type: ignore[misc]
        self.runs = self._scheduled_runs(mapping, lora_index_to_id)

    def join_inputs(self, layer: Any) -> None:
        """Lay the A of a layer's slices (q, k, v; gate, up) side by side: one product instead of several."""
        if len(layer.lora_a_stacked) > 1:
            joined = torch.cat(layer.lora_a_stacked, dim=2)
            layer.lora_a_stacked = joined.chunk(len(layer.lora_a_stacked), dim=2)
            self._joined[joined.data_ptr()] = joined

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
            **kwargs: ``add_inputs`` False: ``y`` is not the base layer's output yet, and is overwritten.
        """
        if self.runs is None:
            super().add_lora_linear(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **kwargs)  # type: ignore[misc]
            return
        if not kwargs.get("add_inputs", True):
            y.zero_()
        for slot, start, stop in self.runs:
            key = lora_a_stacked[0].data_ptr(), slot
            if key not in self._views:
                self._views[key] = self._slot_weights(lora_a_stacked, lora_b_stacked, output_slices, slot)
            weights, inputs, outputs = self._views[key], x[start:stop], y[start:stop]
            inner = [inputs @ lora_a for lora_a in weights.lora_a]
            if len(inner) < len(weights.lora_b):
                inner = list(inner[0].chunk(len(weights.lora_b), dim=1))
            for update, lora_b, (begin, end) in zip(inner, weights.lora_b, weights.bounds, strict=True):
                outputs[:, begin:end].addmm_(update, lora_b, alpha=scale)

    def _scheduled_runs(self, mapping: Any, lora_index_to_id: list[int | None]) -> tuple[TokenRun, ...] | None:
        return token_runs(mapping.index_mapping, lora_index_to_id)

    def _slot_weights(
        self,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        output_slices: tuple[int, ...],
        slot: int,
    ) -> SlotWeights:
        """Return views of one slot's weights, so that they stay right when another adapter is put into the slot."""
        joined = self._joined.get(lora_a_stacked[0].data_ptr())
        ends = np.cumsum(output_slices).tolist()
        return SlotWeights(
            lora_a=tuple(a[slot, 0].t() for a in (lora_a_stacked if joined is None else (joined,))),
            lora_b=tuple(b[slot, 0].t() for b in lora_b_stacked),
            bounds=tuple(zip([0, *ends[:-1]], ends, strict=True)),
        )


class CpuLora(SegmentedLora, PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not typed for us
    """On the CPU, for planned steps and for vLLM's own scheduler."""


class CudaLora(SegmentedLora, PunicaWrapperGPU):  # type: ignore[misc]
    """On CUDA: planned steps here; batches of vLLM's scheduler by its Triton operators where they take the dtype."""

    def _scheduled_runs(self, mapping: Any, lora_index_to_id: list[int | None]) -> tuple[TokenRun, ...] | None:
        if self.lora_config.lora_dtype in (torch.float16, torch.bfloat16):
            return None
        return super()._scheduled_runs(mapping, lora_index_to_id)
