"""A sweep on the screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from transfergrid.commands.display import scoring as display
from transfergrid.commands.display.scoring import Pace, SweepDisplay
from transfergrid.engine.evaluation.events import (
    CellFinished,
    Event,
    Failed,
    ItemsScored,
    ModelOpened,
    Notice,
    SourceFinished,
    SourceStarted,
    SweepStarted,
)
from transfergrid.engine.work.failures import Failure
from transfergrid.grid import BASE
from transfergrid.store.score_store import CellRecord, Origin
from transfergrid.wording import format_duration

ORIGIN = Origin("tiny", BASE)
RECORD = CellRecord(
    target="arc-de",
    run_key="k",
    items_hash="h",
    n_items=50,
    n_unscored=10,
    n_to_retry=0,
    wall_s=1.0,
    n_computed_tokens=1000,
    n_repeated_tokens=4000,
)
EVENTS: tuple[Event, ...] = (
    SweepStarted(n_sources=2, n_sources_finished=0, n_cells=2, n_finished=0, n_items=100),
    ModelOpened("tiny", 1.5),
    SourceStarted(ORIGIN, 1),
    ItemsScored(40),
    CellFinished(ORIGIN, RECORD),
    SourceFinished(ORIGIN),
)


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (90061, "1 d 1:01:01")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_pace_tells_rates_and_the_time_left() -> None:
    clock = Clock()
    pace = Pace(clock, n_items_left=100)
    assert (str(pace), pace.remaining_s) == ("", None)
    pace.start()
    clock.now += 10
    pace.start()  # does not start anew
    pace.add_items(20)
    pace.n_computed_tokens, pace.n_repeated_tokens = 1000, 4000
    assert str(pace) == "2.0 items/s, 100 tok/s computed, 300 tok/s saved by sharing, 0:00:40 left"


def show(events: tuple[Event, ...], *, is_terminal: bool) -> tuple[SweepDisplay, str]:
    buffer = io.StringIO()
    console = Console(file=buffer, width=200, force_terminal=is_terminal, no_color=True)
    clock = Clock()
    with SweepDisplay(console, Pace(clock)) as shown:
        for event in events:
            shown(event)
            clock.now += 1
    return shown, buffer.getvalue()


def test_outside_a_terminal_a_source_is_a_line() -> None:
    _, text = show(EVENTS, is_terminal=False)
    assert text.splitlines() == [
        "tiny is loaded (1.5 s)",
        "tiny.base: 1 of 2 sources, 1 of 2 cells; 13.3 items/s, 333 tok/s computed, 1,000 tok/s saved by sharing, "
        "0:00:04 left",
    ]


def test_items_that_were_never_given_to_the_scorer_are_not_waited_for() -> None:
    shown, _ = show(EVENTS, is_terminal=False)
    assert shown.pace.n_items_left == 50  # 100 - 40 scored - 10 too long


def test_a_source_that_takes_long_shows_lines_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_EVERY_S", -1.0)
    _, text = show(EVENTS[:-1], is_terminal=False)
    assert "tiny.base: 0 of 2 sources, 1 of 2 cells" in text


def test_failures_and_notices_are_lines_in_their_own_words() -> None:
    failure = Failure(model="tiny", seed=17, source="arc-de", reason="A [bold] reason")
    for is_terminal in (False, True):
        _, text = show((Notice("a [part] moved"), Failed(failure)), is_terminal=is_terminal)
        assert "a [part] moved" in text
        assert "failed: tiny s17 arc-de: A [bold] reason" in text


def test_on_a_terminal_bars_count_sources_and_cells() -> None:
    _, text = show(EVENTS, is_terminal=True)
    assert "sources" in text
    assert "1/2" in text
    assert "tok/s saved by sharing" in text
