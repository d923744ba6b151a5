"""One pass over the base for batches of several adapters: every base product takes all rows, LoRA's their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from transfergrid.grid import UserError
from transfergrid.trainers.sft import IGNORED
from transfergrid.trainers.sft.fused_lora import LoraRows, LoraWeights, lora_linear
from transfergrid.trainers.sft.loss import Decoder
from transfergrid.trainers.sft.microbatches import MicrobatchLimits, group_by_length

Adapter = Mapping[str, LoraWeights]
"""The weights of one adapter by the name of the layer."""


class MixedRowsError(UserError):
    """A model that hands its layers other rows than its sequences; its adapters cannot share a pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one adapter has computed next."""

    adapter: Adapter
    inputs: Mapping[str, torch.Tensor]
    """input_ids, labels and attention_mask, shape [B, T]."""
    n_supervised: torch.Tensor
    """Supervised tokens that the mean loss is over: those of the optimizer step, or of all validation examples."""
    learns: bool
    """Whether the gradients of the adapter's weights are added to; validation needs none."""


class JointPass:
    """Computes losses and gradients of several adapters on one base model."""

    def __init__(self, model: Any, layers: Sequence[str], *, limits: MicrobatchLimits) -> None:
        """Take a base model without adapters, which is changed only while it computes."""
        self._model, self._decoder, self._limits = model, Decoder(model), limits
        self._layers = {name: model.get_submodule(name) for name in layers}
        self._parts: list[tuple[int, Adapter]] = []
        self._shape = torch.Size()

    def compute(self, batches: Sequence[Batch]) -> list[torch.Tensor]:
        """Return the share of every batch in its mean loss, nats, and add gradients where a batch learns.

        Raises:
            MixedRowsError: If the model's layers do not see the rows of its sequences.
        """
        losses = torch.zeros(len(batches), device=self._model.device)
        try:
            for name, layer in self._layers.items():
                layer.forward = partial(self._forward, layer, name)
            for learns in (False, True):
                self._model.train(learns)
                rows = [
                    (index, row, length)
                    for index, batch in enumerate(batches)
                    if batch.learns is learns
                    for row, length in enumerate(batch.inputs["attention_mask"].sum(1).tolist())
                ]
                for group in group_by_length([length for *_, length in rows], self._limits):
                    members = sorted((rows[position] for position in group), key=lambda member: member[0])
                    with torch.set_grad_enabled(learns):
                        self._compute_group(batches, members, losses)
        finally:
            self._model.eval()
            for layer in self._layers.values():
                del layer.forward
        return list(losses)

    def _compute_group(
        self, batches: Sequence[Batch], members: Sequence[tuple[int, int, int]], losses: torch.Tensor
    ) -> None:
        """Compute sequences of like length, those of an adapter side by side, and add to its loss."""
        owners = list(dict.fromkeys(index for index, *_ in members))
        sizes = [sum(index == owner for index, *_ in members) for owner in owners]
        ids, labels = (
            pad_sequence([batches[i].inputs[name][row, :length] for i, row, length in members], True, fill)
            for name, fill in (("input_ids", 0), ("labels", IGNORED))
        )
        self._parts = [(size, batches[owner].adapter) for owner, size in zip(owners, sizes, strict=True)]
        self._shape = ids.shape
        sums = self._decoder.losses(ids, labels, sizes)
        shares = sums / torch.stack([batches[owner].n_supervised for owner in owners])
        if shares.requires_grad:
            torch.autograd.backward(shares.sum())
        losses.index_add_(0, torch.tensor(owners, device=losses.device), shares.detach())

    def _forward(self, layer: Any, name: str, x: torch.Tensor) -> torch.Tensor:
        """Compute one linear layer."""
        if x.shape[:-1] != self._shape:
            raise MixedRowsError(f"layer {name!r} got rows of shape {tuple(x.shape)}, not {tuple(self._shape)}")
        parts, start = [], 0
        for size, adapter in self._parts:
            end = start + size * x.shape[1]
            parts.append(LoraRows(start, end, adapter[name]))
            start = end
        return lora_linear(x, layer, parts)
