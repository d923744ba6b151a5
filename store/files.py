"""Files that are never half-written, and hashes of what they hold."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfergrid.grid import UserError

if TYPE_CHECKING:
    import polars as pl

FOOTER_KEY = "transfergrid"
"""Key of what we write into the footer of a Parquet file, as JSON."""


class WriteError(UserError, OSError):
    """A file that cannot be written: no permission, no room, a file where a folder is needed.

    An OSError too, so that a caller that knows a better next step can catch it and say so; ``strerror`` is the reason.
    """

    def __str__(self) -> str:
        """Return one sentence with the file, the reason and the next step."""
        return (
            f"{str(self.filename)!r} cannot be written: {self.strerror}; make room or give write access there, or name "
            "another place"
        )


_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_WAY_IN = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)


@contextmanager
def telling_of_the_disk(folder: Path, option: str = "--run") -> Iterator[None]:
    """Turn a folder that cannot be written into a sentence; errors of other kinds, or about other files, pass.

    Raises:
        UserError: If the disk is full, or the folder cannot be made or written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*_FULL, *_NO_WAY_IN) or not _is_about(error, folder):
            raise
        raise UserError(
            f"folder {str(folder)!r} cannot be written: {error.strerror or error}; make room or give write access and "
            f"give the same command again, or use another {option}"
        ) from error


def _is_about(error: OSError, folder: Path) -> bool:
    """Whether an error names a file in a folder or on the way to it; a full disk may name none."""
    if error.filename is None:
        return error.errno in _FULL
    own, named = folder.resolve(), Path(str(error.filename)).resolve()
    return own.is_relative_to(named) or named.is_relative_to(own)


def move_into_place(folder: Path, target: Path) -> None:
    """Flush the files of a folder, then rename it: after a power cut the target is whole, or not there."""
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, flush it, then rename it into place.

    Raises:
        WriteError: If the disk is full or the folder cannot be written; no file is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        is_blocked = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file stands where its folder should be" if is_blocked else error.strerror or str(error)
        raise WriteError(error.errno, reason, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: UTF-8, two blanks of indentation, a newline at the end."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def csv_text(table: pl.DataFrame) -> str:
    """Return a table as CSV; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    import polars as pl  # late: commands that show no table start without it
    from polars import selectors

    text = selectors.string()
    return table.with_columns(
        pl.when(text.str.contains(r"^[=+\-@\t\r]")).then("'" + text).otherwise(text).name.keep()
    ).write_csv()


def hash_text(*parts: str) -> str:
    """Return the SHA-256 of some texts, hexadecimal; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its keys."""
    return hash_text(json.dumps(value, ensure_ascii=False, sort_keys=True))


def hash_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over names and contents of some files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda entry: entry.name):
        with path.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()
