"""A sweep as it is seen: a live view on a terminal, one line per adapter and epoch elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from transfergrid.trainers.events import (
    AdapterFailed,
    AdapterFinished,
    AdapterStarted,
    BaseLoaded,
    BatchHalved,
    EpochDone,
    StepDone,
    SweepStarted,
    TrainingEvent,
    TrainingEvents,
)

LINE_EVERY_S = 30.0
"""Plain lines tell of the running adapter's steps at most this often."""


class SweepState:
    """The sums behind a view: how far the sweep and the current adapter are, and how fast."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing done."""
        self.n_jobs = self.n_finished = self.n_failed = 0
        self.job = ""
        self.epochs = self.n_steps = self.step = 0
        self.loss: float | None = None
        self.validation_loss: float | None = None
        self._clock = clock
        self._total_tokens = self._tokens_before = self._job_tokens = self._job_done_tokens = 0
        self._started_s = self._job_started_s = clock()

    @property
    def epoch(self) -> int:
        """Epoch of the last step, from 1."""
        return max(1, -(-self.step * self.epochs // self.n_steps)) if self.n_steps else 1

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of the current adapter, without padding."""
        return self._job_done_tokens / max(1e-9, self._clock() - self._job_started_s)

    @property
    def left_s(self) -> float | None:
        """Seconds left at the speed measured so far; None before the first step."""
        done = self._tokens_before + self._job_done_tokens
        if not done:
            return None
        return max(0, self._total_tokens - done) * (self._clock() - self._started_s) / done

    def take(self, event: TrainingEvent) -> None:
        """Count one event."""
        match event:
            case SweepStarted():
                self.n_jobs, self.n_finished = event.n_jobs, event.n_finished
                self._total_tokens, self._started_s = event.n_tokens, self._clock()
            case AdapterStarted():
                self.job, self.epochs, self.n_steps = event.job, event.epochs, event.n_steps
                self.step, self.loss, self.validation_loss = 0, None, None
                self._job_tokens, self._job_done_tokens = event.n_tokens, 0
                self._job_started_s = self._clock()
            case StepDone():
                self.step, self.loss, self._job_done_tokens = event.step, event.loss, event.n_tokens
            case EpochDone():
                self.validation_loss = event.validation_loss
            case AdapterFinished():
                self.n_finished += 1
                self._close_job()
            case AdapterFailed():
                self.n_failed += 1
                self._close_job()
            case _:
                return

    def _close_job(self) -> None:
        """Count the current adapter as over, whether it used all its epochs or not."""
        self._tokens_before += self._job_tokens
        self._job_tokens = self._job_done_tokens = 0


class SweepView:
    """Renders a sweep: one bar for all adapters, one for the current."""

    def __init__(self, state: SweepState) -> None:
        """Show a state as it changes."""
        self._state = state

    def __rich__(self) -> Group:
        """Render two lines."""
        state = self._state
        over = state.n_finished + state.n_failed
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            f"{over}/{state.n_jobs} adapters",
            ProgressBar(total=max(1, state.n_jobs), completed=over, width=30),
            f"{state.n_failed} failed, {format_left(state.left_s)}",
        )
        if state.job:
            grid.add_row(
                state.job,
                ProgressBar(total=max(1, state.n_steps), completed=state.step, width=30),
                Text(_describe_adapter(state)),
            )
        return Group(grid)


@contextmanager
def show_sweep(console: Console) -> Iterator[TrainingEvents]:
    """Show a sweep while it runs: live on a terminal, plain lines elsewhere.

    Yields:
        What to call with every event.
    """
    state = SweepState()
    if not console.is_terminal:
        yield PlainLines(console, state)
        return
    with Live(SweepView(state), console=console, refresh_per_second=4) as live:

        def take(event: TrainingEvent) -> None:
            state.take(event)
            line = remark(event)
            if line:
                live.console.print(line, soft_wrap=True)

        yield take


class PlainLines:
    """Prints a line when something ends, and now and then where a long adapter is."""

    def __init__(self, console: Console, state: SweepState, clock: Callable[[], float] = time.monotonic) -> None:
        """Print to a console."""
        self._console, self._state, self._clock = console, state, clock
        self._last_s = clock()

    def __call__(self, event: TrainingEvent) -> None:
        """Count one event and print what there is to say."""
        self._state.take(event)
        line = remark(event)
        if line is None and isinstance(event, StepDone) and self._clock() - self._last_s >= LINE_EVERY_S:
            line = f"{event.job}: {_describe_adapter(self._state)}"
        if isinstance(event, AdapterFinished | AdapterFailed):
            done = self._state.n_finished + self._state.n_failed
            line = f"[{done}/{self._state.n_jobs}] {line}; {format_left(self._state.left_s)}"
        if line is not None:
            self._last_s = self._clock()
            self._console.print(line, soft_wrap=True, markup=False)


def remark(event: TrainingEvent) -> str | None:
    """Return what stays on the screen of an event; None for steps and epochs."""
    match event:
        case SweepStarted():
            left = event.n_jobs - event.n_finished
            noun = "adapter" if left == 1 else "adapters"
            return f"{left} {noun} to train, {event.n_finished} already there, {event.n_tokens:,} tokens at most"
        case BaseLoaded():
            return f"base {event.model} loaded: {event.dtype} on {event.device}"
        case BatchHalved():
            return (
                f"{event.job}: memory ran out, starting again with batch {event.batch_size} and accumulation "
                f"{event.gradient_accumulation}"
            )
        case AdapterFinished():
            return (
                f"{event.job}: validation loss {event.untrained_loss:.4f} before, {event.validation_loss:.4f} after "
                f"epoch {event.best_epoch}, {event.wall_s:.0f} s"
            )
        case AdapterFailed():
            return f"{event.job}: FAILED, {event.reason}"
        case _:
            return None


def format_left(seconds: float | None) -> str:
    """Return the time left as ``h:mm:ss left``."""
    return "time left unknown" if seconds is None else f"{timedelta(seconds=round(seconds))} left"


def _describe_adapter(state: SweepState) -> str:
    """Return epoch, losses and speed of the current adapter."""
    parts = [f"epoch {state.epoch}/{state.epochs}", f"step {state.step}/{state.n_steps}"]
    if state.loss is not None:
        parts.append(f"loss {state.loss:.4f}")
    if state.validation_loss is not None:
        parts.append(f"validation {state.validation_loss:.4f}")
    parts.append(f"{state.tokens_per_s:,.0f} tok/s")
    return ", ".join(parts)
