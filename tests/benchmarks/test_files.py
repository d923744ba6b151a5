"""Files that cannot be written: one sentence, nothing left behind."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest

from transfergrid.benchmarks.files import WriteError, write_atomically, write_text
from transfergrid.grid import UserError


def test_a_file_where_a_folder_is_needed_is_a_failure_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"taken/x\.txt' cannot be written: a file stands where its folder should be; make room"
    ):
        write_text(tmp_path / "taken" / "x.txt", "text")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(WriteError, match=r"x\.txt' cannot be written: No space left on device"):
        write_atomically(tmp_path / "x.txt", full)
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("x.txt", "old")]


def test_the_error_keeps_what_the_system_said_through_another_process() -> None:
    error = pickle.loads(pickle.dumps(WriteError(errno.EROFS, "Read-only file system", "/x")))
    assert (error.errno, error.strerror, error.filename) == (errno.EROFS, "Read-only file system", "/x")
    assert str(error).startswith("'/x' cannot be written: Read-only file system; make room")
