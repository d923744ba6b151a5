"""Where a result comes from: versions of the packages, state of the source code."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

_PACKAGES = ("transfergrid", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
_ROOT = Path(__file__).resolve().parent.parent


def installed_version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages by name; one that is not installed is left out."""
    return {name: version for name in packages if (version := installed_version(name)) is not None}


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of what trains; a package that is not installed is left out."""
    return {"python": platform.python_version(), **installed_versions(_PACKAGES)}


def git_state(root: Path = _ROOT) -> dict[str, str | bool] | None:
    """Return commit and ``dirty`` (uncommitted changes) of a checkout; None where the code is not in one."""
    commands = (("rev-parse", "--show-toplevel"), ("rev-parse", "HEAD"), ("status", "--porcelain"))
    try:
        top, commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)} if Path(top) == root else None
