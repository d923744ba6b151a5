"""What the device can do and hold: number format, and memory shared out to weights, adapters, KV blocks and steps."""

from __future__ import annotations

from pathlib import Path

GIB = 2**30
_SHARE_STEPS = 1000
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device_type() -> str:
    """Return ``cuda`` where vLLM would use a CUDA device, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str | None = None) -> str:
    """Return the number format to compute in.

    Args:
        dtype: ``auto`` means bfloat16 where the device multiplies it natively, else float32; others stay.
        device: ``cpu`` or ``cuda``; None asks torch.
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_native_bfloat16(device or device_type()) else "float32"


def has_native_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (CUDA 8.0 on; AVX-512 BF16, AMX or Arm BF16)."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.get_device_capability() >= (8, 0))
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def available_memory_bytes(device: str, utilization: float = 1.0) -> int:
    """Return the memory that may be taken now: of the CUDA device, or of this machine within its container's limit.

    Args:
        device: ``cpu`` or ``cuda``.
        utilization: Share of a CUDA device's memory that may be in use in the end, by whoever.
    """
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        return max(0, int(utilization * total) - (total - free))
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = int(_CGROUP_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or "max"
        return free
    return min(free, limit - int(psutil.Process().memory_info().rss))


def share_of_device(memory_bytes: int) -> float:
    """Return memory as a share of the CUDA device's, rounded down: what is free is never less than it."""
    import torch

    total = torch.cuda.mem_get_info()[1]
    return max(1, _SHARE_STEPS * memory_bytes // total) / _SHARE_STEPS
