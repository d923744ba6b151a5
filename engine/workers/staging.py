"""Arrays on their way to the device and scores on their way back, without waiting for either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_ALIGNMENT = 64  # bytes


class Staging:
    """One set of buffers for one step in flight: pinned host memory, device memory, and the event of the step's end.

    On the CPU host and device memory are one, and there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_pinned = device.type != "cpu"
        self._event: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._inputs = self._inputs_on_device = self._host(0)
        self._scores = self._host(0)
        self._n_scores = 0

    def wait(self) -> None:
        """Wait for the end of the step that uses the buffers; raises what went wrong with it on the device."""
        if self._event is not None:
            self._event.synchronize()

    def mark(self) -> None:
        """Note that all of the step that uses the buffers has been launched."""
        if self._event is not None:
            self._event.record()

    def send(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
        """Copy arrays to the device with one transfer; the tensors hold until the next call."""
        ends = np.cumsum([-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays.values()]).tolist()
        if ends[-1] > len(self._inputs):
            self._inputs = self._inputs_on_device = self._host(2 * ends[-1])
            if self._is_pinned:
                self._inputs_on_device = torch.empty_like(self._inputs, device=self._device, pin_memory=False)
        host, tensors = self._inputs.numpy(), {}
        for start, (name, array) in zip([0, *ends], arrays.items(), strict=False):
            span = slice(start, start + array.nbytes)
            host[span].view(array.dtype)[:] = array.ravel()
            dtype = getattr(torch, array.dtype.name)
            tensors[name] = self._inputs_on_device[span].view(dtype).view(array.shape)
        if self._is_pinned:
            self._inputs_on_device[: ends[-1]].copy_(self._inputs[: ends[-1]], non_blocking=True)
        return tensors

    def fetch(self, scores: torch.Tensor) -> None:
        """Start to copy a step's scores, float32, to the host."""
        self._n_scores = len(scores)
        if 4 * len(scores) > len(self._scores):
            self._scores = self._host(8 * len(scores))
        self._scores[: 4 * len(scores)].view(torch.float32).copy_(scores, non_blocking=True)

    def scores(self) -> bytes:
        """Return the scores of a step that has ended, little-endian."""
        return self._scores[: 4 * self._n_scores].numpy().tobytes()

    def _host(self, n_bytes: int) -> torch.Tensor:
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=self._is_pinned)
