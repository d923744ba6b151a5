"""All readers for a minute, and the runner itself: it must see what does not hold."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.runner import BrokenError, Reader, find_readers, fuzz, table, try_input
from transfergrid.grid import UserError

SECONDS = 60


def test_all_readers_hold_for_a_minute() -> None:
    readers = find_readers()
    fuzz(readers, SECONDS, first_seed=1)  # `make fuzz` starts elsewhere each time
    text = table(readers)
    print(text)
    assert not [reader.name for reader in readers if reader.broken], text


def slow(content: bytes, folder: Path) -> None:
    end = time.process_time() + 2.1
    while time.process_time() < end:
        pass


def raising(error: BaseException) -> Reader:
    def read(content: bytes, folder: Path) -> None:
        raise error

    return Reader("x", st.binary(), read)


@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        (raising(ValueError("no")), "ValueError: no"),
        (raising(BaseException("panic")), "BaseException: panic"),
        (raising(UserError("two\nlines")), "line breaks or control characters"),
        (raising(UserError("")), "line breaks or control characters"),
        (Reader("x", st.binary(), slow), r"it took 2\.\d s"),
    ],
)
def test_what_does_not_hold_is_seen_and_kept(
    reader: Reader, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BrokenError, match=fault):
        try_input(reader, b"abc")
    (kept,) = (tmp_path / ".build" / "fuzz").iterdir()
    assert kept.read_bytes() == b"abc"


def test_a_round_counts_what_it_tried_and_stops_at_what_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good, refusing, bad = (
        Reader("good", st.binary(), lambda content, folder: None),
        raising(UserError("no")),
        raising(ValueError("no")),
    )
    fuzz([good, refusing, bad], 0, first_seed=1)
    assert (good.n_tried, good.n_refused, refusing.n_refused, bad.n_tried) == (100, 0, refusing.n_tried, 1)
    assert "ValueError: no" in table([good, refusing, bad])


def test_unknown_readers_are_refused() -> None:
    with pytest.raises(UserError, match=r"no reader 'other'; expected some of \['adapter_config'"):
        find_readers(["other"])
