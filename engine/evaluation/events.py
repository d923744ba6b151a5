"""What a sweep reports while it runs; the display decides how to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transfergrid.engine.work.failures import Failure
from transfergrid.store.score_store import CellRecord, Origin


@dataclass(frozen=True, slots=True)
class SweepStarted:
    """What was asked for is known."""

    n_sources: int
    n_sources_finished: int
    n_cells: int
    """(source, target) pairs that were asked for and whose source is usable."""
    n_finished: int
    """Pairs of these that are in the store already."""
    n_items: int
    """Item scorings that are left."""


@dataclass(frozen=True, slots=True)
class ModelOpened:
    """A base model is in memory and its items are planned."""

    model: str
    wall_s: float


@dataclass(frozen=True, slots=True)
class SourceStarted:
    """The next source is scored."""

    origin: Origin
    n_targets: int


@dataclass(frozen=True, slots=True)
class ItemsScored:
    """Some more items of the current cell are scored."""

    n_items: int


@dataclass(frozen=True, slots=True)
class CellFinished:
    """A cell, or a slice of it, went to the store."""

    origin: Origin
    record: CellRecord
    is_last: bool = True
    """Whether nothing of the cell is left to score."""
    n_skipped: int = 0
    """Items that will not be scored, since the pair was stopped."""


@dataclass(frozen=True, slots=True)
class SourceFinished:
    """All targets of a source are done or have failed."""

    origin: Origin


@dataclass(frozen=True, slots=True)
class Failed:
    """A model, source or cell is left out."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a reader should know."""

    message: str


Event = SweepStarted | ModelOpened | SourceStarted | ItemsScored | CellFinished | SourceFinished | Failed | Notice
OnEvent = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """Do nothing with an event."""
