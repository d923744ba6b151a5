"""What was read from files that have not changed since: a cache on disk, so that a resumed sweep reads no byte twice.

The cache is trusted only as long as size, times and inode of every file are those of the time of reading. A file that
was changed less than two seconds before it was read is not kept: a second change could leave the same times. The cache
carries its own checksum; lost or damaged, it costs time and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from transfergrid.store.files import hash_text, write_text

_SETTLED_NS = 2 * 10**9
"""Age at which a file's times tell whether it was changed again."""


class FileIndex:
    """Values by the file or folder that they were read from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] | None = None
        self._is_changed = False

    def look_up(self, place: Path, files: Iterable[Path], read: Callable[[], Any], *, about: str = "") -> Any:
        """Return what was read from some files, from the cache where they have not changed.

        Args:
            place: The file or folder that the value belongs to.
            files: All files that decide the value.
            read: Reads them; its value must survive JSON.
            about: What else decides the value.

        Raises:
            Exception: What ``read`` raises; nothing is kept then.
        """
        entries, key = self._load(), self._key(place)
        found = _signature(files)
        entry = entries.get(key)
        if entry is not None and found is not None and entry["files"] == found and entry["about"] == about:
            return entry["value"]
        value = read()
        if found and max(max(times) for _, _, _, *times in found) < time.time_ns() - _SETTLED_NS:
            entries[key] = {"files": found, "about": about, "value": value}
            self._is_changed = True
        return value

    def save(self) -> None:
        """Write the cache without what is gone from the disk; a folder that cannot be written is left as it is."""
        folder = self._path.parent
        if not self._is_changed:
            return
        entries = {key: entry for key, entry in self._load().items() if (folder / key).exists()}
        text = json.dumps(entries)
        with suppress(OSError):
            write_text(self._path, f"{hash_text(text)}\n{text}")
            self._is_changed = False

    def _key(self, place: Path) -> str:
        """Return a name that moves with the cache's folder for what lies in it."""
        folder = self._path.parent
        return str(place.relative_to(folder) if place.is_relative_to(folder) else place.absolute())

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._entries is None:
            self._entries = {}
            with suppress(OSError, ValueError):
                checksum, _, text = self._path.read_text(encoding="utf-8").partition("\n")
                if checksum == hash_text(text):
                    self._entries = json.loads(text)
        return self._entries


def _signature(files: Iterable[Path]) -> list[list[Any]] | None:
    """Return name, size, inode and times of every file; None if one is not there."""
    try:
        stats = [(path.name, path.stat()) for path in files]
    except OSError:
        return None
    return [[name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats]
