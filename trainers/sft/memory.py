"""Memory: the peak of one adapter, and what running out of it looks like."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

from transfergrid.engine.models.device import GIB

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_OUT_OF_MEMORY = ("allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's CPU allocator, the CUDA runtime and cuBLAS say; none of them has an exception of its own."""


def reset_peak_memory(device: str) -> None:
    """Start a new peak; where the system has none to reset, the peak stays the process's."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    except OSError:
        return


def peak_memory_gib(device: str) -> float:
    """Return the peak since the last reset, GiB: of the device's allocations on CUDA, else of the process."""
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated() / GIB)
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / GIB
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch's, the CUDA libraries', or Python's."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def free_memory(device: str) -> None:
    """Give freed memory back to the device."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def available_gib(device: str) -> float:
    """Return the memory that can be had now, GiB: of the device on CUDA, else of the machine."""
    if device == "cuda":
        import torch

        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return float((torch.cuda.mem_get_info()[0] + cached) / GIB)
    import psutil

    return float(psutil.virtual_memory().available / GIB)


def used_gib(device: str) -> float:
    """Return the memory in use by this process, GiB: on the device on CUDA, else on the machine."""
    if device == "cuda":
        import torch

        return float(torch.cuda.memory_allocated() / GIB)
    import psutil

    return float(psutil.Process().memory_info().rss / GIB)
