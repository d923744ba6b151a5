"""One process per run folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from transfergrid.grid import UserError
from transfergrid.store.files import telling_of_the_disk, write_json
from transfergrid.store.json_text import JsonError, read_json

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock-holder.json"
_PATIENCE_S = 0.5  # a process that was killed while it started another leaves the lock to that one for a moment


@contextmanager
def hold_run_folder(folder: Path, purpose: str, option: str = "--run") -> Iterator[None]:
    """Hold a run folder; the operating system releases it when this process ends, also when it is killed.

    Raises:
        UserError: If another process holds it (says who, where and since when), or it cannot be written, now or
            while it is held.
    """
    with telling_of_the_disk(folder, option), _hold(folder, purpose, option):
        yield


@contextmanager
def _hold(folder: Path, purpose: str, option: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LOCK_FILE, HOLDER_FILE):
        if (folder / name).exists() and not (folder / name).is_file():
            raise UserError(f"{str(folder / name)!r} is not a file, and the run folder cannot be held; remove it")
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout as error:
        raise UserError(
            f"folder {str(folder)!r} is in use by {_holder(folder)}; wait until it is done, stop it, or use "
            f"another {option}"
        ) from error
    try:
        write_json(folder / HOLDER_FILE, _this_process(purpose))
        yield
    finally:
        (folder / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _this_process(purpose: str) -> dict[str, str | int]:
    return {
        "purpose": purpose,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _holder(folder: Path) -> str:
    try:
        holder = read_json(folder / HOLDER_FILE)
        return f"{holder['purpose']!r}, process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (JsonError, KeyError, TypeError, IndexError):
        return "a process that has just started"
