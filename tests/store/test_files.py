"""Files and folders that cannot be written: one sentence, nothing left behind; whatever else goes wrong keeps its error."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import polars as pl
import pytest

from transfergrid.grid import UserError
from transfergrid.store.files import (
    WriteError,
    csv_text,
    move_into_place,
    telling_of_the_disk,
    write_atomically,
    write_text,
)


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


@pytest.mark.parametrize("name", ["", "run", "run/data"])
def test_a_file_in_the_way_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = tmp_path / "file" / name
    message = r"folder '.*file.*' cannot be written: .*; make room or give write access"
    with pytest.raises(UserError, match=message), telling_of_the_disk(folder):
        write_text(folder / "grid.json", "x")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_sentence_also_without_a_file_name(tmp_path: Path, code: int) -> None:
    with pytest.raises(UserError, match=r"cannot be written: .*full"), telling_of_the_disk(tmp_path):
        raise OSError(code, "full")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR])
def test_no_way_into_the_folder_is_a_sentence_and_into_another_is_not(tmp_path: Path, code: int) -> None:
    for named in (tmp_path / "run" / "scores" / "x", tmp_path):
        with pytest.raises(UserError, match="cannot be written"), telling_of_the_disk(tmp_path / "run"):
            raise OSError(code, "no way in", str(named))
    for elsewhere in (str(tmp_path / "model"), None):
        with pytest.raises(OSError, match="no way in"), telling_of_the_disk(tmp_path / "run"):
            raise OSError(code, "no way in", elsewhere)


def test_a_broken_disk_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), telling_of_the_disk(tmp_path):
        raise OSError(errno.EIO, "broken", str(tmp_path / "x"))


def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe() -> None:
    texts = ["=1+1", "+a", "-b", "@c", "\td", "\re", "arc-de", "", None]
    found = csv_text(pl.DataFrame({"name": texts, "delta_pp": [-1.5] * 9}))
    assert pl.read_csv(found.encode())["name"].to_list() == [
        "'=1+1",
        "'+a",
        "'-b",
        "'@c",
        "'\td",
        "'\re",
        "arc-de",
        "",
        None,
    ]
    assert pl.read_csv(found.encode())["delta_pp"].to_list() == [-1.5] * 9


def test_a_folder_moves_into_place_with_its_files_and_makes_the_folders_above(tmp_path: Path) -> None:
    folder = tmp_path / "building"
    folder.mkdir()
    (folder / "a").write_text("1", encoding="utf-8")
    move_into_place(folder, tmp_path / "new" / "place")
    assert (tmp_path / "new" / "place" / "a").read_text(encoding="utf-8") == "1"
    assert not folder.exists()
