"""The cache of what files hold: never wrong, whatever happens to it or to them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from transfergrid.store import file_index
from transfergrid.store.file_index import FileIndex


class Reader:
    """Reads a file and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_read = 0

    def __call__(self) -> str:
        self.n_read += 1
        return self.path.read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader of a file that is taken to have settled at once."""
    monkeypatch.setattr(file_index, "_SETTLED_NS", 0)
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    return Reader(path)


def look_up(reader: Reader, *, about: str = "") -> str:
    """Look the file up in a fresh index, as the next process does, and save it."""
    index = FileIndex(reader.path.with_name("index"))
    value = index.look_up(reader.path, [reader.path], reader, about=about)
    index.save()
    return str(value)


def test_a_file_is_read_once_and_again_where_it_or_the_question_changed(reader: Reader) -> None:
    assert [look_up(reader), look_up(reader)] == ["old", "old"]
    assert reader.n_read == 1
    look_up(reader, about="another question")
    assert reader.n_read == 2


def test_a_change_of_the_same_size_with_its_old_time_is_seen(reader: Reader) -> None:
    look_up(reader)
    stat = reader.path.stat()
    reader.path.write_text("new", encoding="utf-8")
    os.utime(reader.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert look_up(reader) == "new"


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_times_of_a_clock_that_is_wrong_hide_no_change(hours: int, reader: Reader) -> None:
    when = time.time() + 3600 * hours
    for text in ("old", "new"):
        reader.path.write_text(text, encoding="utf-8")
        os.utime(reader.path, (when, when))
        assert look_up(reader) == text


def test_a_file_that_was_just_written_is_read_again(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_index, "_SETTLED_NS", 10**10)
    look_up(reader)
    look_up(reader)
    assert reader.n_read == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"file": {}}'])
def test_a_damaged_index_costs_a_reading_and_nothing_else(damage: str, reader: Reader) -> None:
    look_up(reader)
    reader.path.with_name("index").write_text(damage, encoding="utf-8")
    assert look_up(reader) == "old"
    assert look_up(reader) == "old"
    assert reader.n_read == 2


def test_an_altered_index_is_not_believed(reader: Reader) -> None:
    look_up(reader)
    index = reader.path.with_name("index")
    index.write_text(index.read_text(encoding="utf-8").replace('"old"', '"lie"'), encoding="utf-8")
    assert look_up(reader) == "old"


def test_what_cannot_be_read_is_told_by_the_reader_and_not_kept(reader: Reader) -> None:
    reader.path.unlink()
    with pytest.raises(FileNotFoundError, match="file"):
        look_up(reader)


def test_entries_of_files_that_are_gone_are_dropped(reader: Reader) -> None:
    look_up(reader)
    other = Reader(reader.path.with_name("other"))
    reader.path.rename(other.path)
    look_up(other)
    assert '"file": {' not in reader.path.with_name("index").read_text(encoding="utf-8")


def test_an_index_that_cannot_be_written_is_left_out(reader: Reader) -> None:
    reader.path.with_name("index").mkdir()
    assert look_up(reader) == "old"
