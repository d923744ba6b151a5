"""Where a result comes from: versions of the packages, state of the source code."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("transfergrid", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
_ROOT = Path(__file__).resolve().parent.parent


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of what trains; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


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
