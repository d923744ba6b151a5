"""A scoring sweep on the screen: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

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
from transfergrid.engine.work.failures import Failure, describe_failures
from transfergrid.wording import format_duration

LINE_EVERY_S = 60.0
"""Outside a terminal, a source that takes long prints a line this often."""


@dataclass(slots=True)
class Pace:
    """How fast a sweep goes."""

    clock: Callable[[], float] = time.monotonic
    n_items_left: int = 0
    n_items: int = 0
    n_computed_tokens: int = 0
    n_repeated_tokens: int = 0
    started_s: float | None = None

    def start(self) -> None:
        """Note when scoring began; only the first call counts."""
        if self.started_s is None:
            self.started_s = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since scoring began."""
        return 0.0 if self.started_s is None else max(self.clock() - self.started_s, 1e-9)

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the last item at the pace so far; None before the first item."""
        return self.elapsed_s * self.n_items_left / self.n_items if self.n_items else None

    def add_items(self, n_items: int) -> None:
        """Count items."""
        self.n_items += n_items
        self.n_items_left = max(0, self.n_items_left - n_items)

    def __str__(self) -> str:
        """Return items and tokens per second, and the time left."""
        if not self.elapsed_s:
            return ""
        seconds = self.elapsed_s
        saved = self.n_repeated_tokens - self.n_computed_tokens
        text = f"{self.n_items / seconds:,.1f} items/s, {self.n_computed_tokens / seconds:,.0f} tok/s computed, "
        text += f"{saved / seconds:,.0f} tok/s saved by sharing"
        return text if self.remaining_s is None else f"{text}, {format_duration(self.remaining_s)} left"


@dataclass(slots=True)
class SweepDisplay:
    """Shows the events of a sweep; call it with each of them, inside its context."""

    console: Console
    pace: Pace = field(default_factory=Pace)
    n_sources: int = 0
    n_sources_done: int = 0
    n_cells: int = 0
    n_cells_done: int = 0
    _progress: Progress | None = None
    _sources: TaskID | None = None
    _cells: TaskID | None = None
    _last_line_s: float = 0.0
    _failures: list[Failure] = field(default_factory=list)
    """Failures that came one after the other and are not shown yet."""

    def __enter__(self) -> SweepDisplay:
        """Start the bars where there is a terminal."""
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.console,
            )
            self._sources = self._progress.add_task("sources", total=None, note="")
            self._cells = self._progress.add_task("cells", total=None, note="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the bars."""
        self._show_failures()
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event and show it."""
        if isinstance(event, Failed):
            self._failures.append(event.failure)
            return
        self._show_failures()
        self._count(event)
        if isinstance(event, Notice):
            self._print(event.message)
        elif isinstance(event, ModelOpened):
            self._print(f"{event.model} is loaded ({event.wall_s:.1f} s)")
        self._update_bars(event)
        if self._progress is None and (
            isinstance(event, SourceFinished) or (isinstance(event, CellFinished) and self._is_line_due())
        ):
            self._last_line_s = self.pace.clock()
            self._print(
                f"{event.origin.name}: {self.n_sources_done:,} of {self.n_sources:,} sources, "
                f"{self.n_cells_done:,} of {self.n_cells:,} cells; {self.pace}"
            )

    def _show_failures(self) -> None:
        for line in describe_failures(self._failures):
            self._print(line)
        self._failures.clear()

    def _count(self, event: Event) -> None:
        if isinstance(event, SweepStarted):
            self.n_sources, self.n_cells, self.n_cells_done = event.n_sources, event.n_cells, event.n_finished
            self.n_sources_done = event.n_sources_finished
            self.pace.n_items_left = event.n_items
        elif isinstance(event, SourceStarted):
            self.pace.start()
        elif isinstance(event, ItemsScored):
            self.pace.add_items(event.n_items)
        elif isinstance(event, CellFinished):
            self.n_cells_done += event.is_last
            self.pace.n_items_left -= event.n_skipped
            self.pace.n_items_left -= event.record.n_unscored - event.record.n_to_retry  # never given to the scorer
            self.pace.n_computed_tokens += event.record.n_computed_tokens
            self.pace.n_repeated_tokens += event.record.n_repeated_tokens
        elif isinstance(event, SourceFinished):
            self.n_sources_done += 1

    def _update_bars(self, event: Event) -> None:
        if self._progress is None or self._sources is None or self._cells is None:
            return
        self._progress.update(self._sources, total=self.n_sources or None, completed=self.n_sources_done)
        if isinstance(event, SourceStarted):
            self._progress.update(self._sources, note=event.origin.name)
        self._progress.update(self._cells, total=self.n_cells or None, completed=self.n_cells_done, note=str(self.pace))

    def _is_line_due(self) -> bool:
        return self.pace.clock() - max(self._last_line_s, self.pace.started_s or 0.0) >= LINE_EVERY_S

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)
