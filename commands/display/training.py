"""A training sweep on the screen: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from transfergrid.trainers.events import (
    AdapterFailed,
    AdapterFinished,
    AdapterMerged,
    AdapterStarted,
    BaseLoaded,
    BatchHalved,
    EpochDone,
    Remark,
    StepDone,
    SweepStarted,
    TrainingEvent,
    TrainingEvents,
)
from transfergrid.wording import count, format_left

LINE_EVERY_S = 30.0
"""Outside a terminal, the steps of the running adapter are printed at most this often."""


@dataclass(slots=True)
class RunningAdapter:
    """How far one adapter is, and how fast."""

    job: str
    epochs: int
    n_steps: int
    n_tokens: int
    """Tokens of all epochs."""
    started_s: float
    step: int = 0
    n_tokens_done: int = 0
    loss: float | None = None
    validation_loss: float | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the last step, from 1."""
        return max(1, -(-self.step * self.epochs // self.n_steps)) if self.n_steps else 1

    def describe(self, now_s: float) -> str:
        """Return epoch, losses and tokens per second, without padding."""
        parts = [f"epoch {self.epoch}/{self.epochs}", f"step {self.step}/{self.n_steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.validation_loss is not None:
            parts.append(f"validation {self.validation_loss:.4f}")
        if self.step:
            parts.append(f"{self.n_tokens_done / max(1e-9, now_s - self.started_s):,.0f} tok/s")
        return ", ".join(parts)


class SweepState:
    """How far the sweep and the running adapters are, and how fast; shown as a bar for all and one for each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing done."""
        self.n_jobs = self.n_finished = self.n_failed = 0
        self.running: dict[str, RunningAdapter] = {}
        self.clock = clock
        self._total_tokens = self._tokens_before = 0
        self._started_s = clock()

    @property
    def left_s(self) -> float | None:
        """Seconds left at the speed measured so far; None before the first step."""
        done = self._tokens_before + sum(adapter.n_tokens_done for adapter in self.running.values())
        if not done:
            return None
        return max(0, self._total_tokens - done) * (self.clock() - self._started_s) / done

    def take(self, event: TrainingEvent) -> None:
        """Count one event."""
        match event:
            case SweepStarted():
                self.n_jobs, self.n_finished = event.n_jobs, event.n_finished
                self._total_tokens, self._started_s = event.n_tokens, self.clock()
            case AdapterStarted():
                self.running[event.job] = RunningAdapter(
                    event.job, event.epochs, event.n_steps, event.n_tokens, self.clock()
                )
            case StepDone():
                adapter = self.running[event.job]
                adapter.step, adapter.loss, adapter.n_tokens_done = event.step, event.loss, event.n_tokens
            case EpochDone():
                self.running[event.job].validation_loss = event.validation_loss
            case AdapterFinished() | AdapterMerged():
                self.n_finished += 1
                self._close(event.job)
            case AdapterFailed():
                self.n_failed += 1
                self._close(event.job)
            case _:
                return

    def _close(self, job: str) -> None:
        """Count an adapter as over, whether it used all its epochs or not."""
        if adapter := self.running.pop(job, None):
            self._tokens_before += adapter.n_tokens

    def __rich__(self) -> Group:
        """Render a line for the sweep and one per running adapter."""
        over = self.n_finished + self.n_failed
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            f"{over}/{self.n_jobs} adapters",
            ProgressBar(total=max(1, self.n_jobs), completed=over, width=30),
            f"{self.n_failed} failed, {format_left(self.left_s)}",
        )
        for adapter in self.running.values():
            grid.add_row(
                Text(adapter.job),
                ProgressBar(total=max(1, adapter.n_steps), completed=adapter.step, width=30),
                Text(adapter.describe(self.clock())),
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
    with Live(state, console=console, refresh_per_second=4) as live:

        def take(event: TrainingEvent) -> None:
            state.take(event)
            line = remark(event)
            if line:
                live.console.print(line, soft_wrap=True, markup=False)

        yield take


class PlainLines:
    """Prints a line when something ends, and now and then how far a long adapter is."""

    def __init__(self, console: Console, state: SweepState) -> None:
        """Print to a console."""
        self._console, self._state = console, state
        self._last_s = state.clock()

    def __call__(self, event: TrainingEvent) -> None:
        """Count one event and print what there is to say."""
        self._state.take(event)
        line = remark(event)
        if line is None and isinstance(event, StepDone) and self._state.clock() - self._last_s >= LINE_EVERY_S:
            line = f"{event.job}: {self._state.running[event.job].describe(self._state.clock())}"
        if isinstance(event, AdapterFinished | AdapterFailed):
            done = self._state.n_finished + self._state.n_failed
            line = f"[{done}/{self._state.n_jobs}] {line}; {format_left(self._state.left_s)}"
        if line is not None:
            self._last_s = self._state.clock()
            self._console.print(line, soft_wrap=True, markup=False)


def remark(event: TrainingEvent) -> str | None:
    """Return the line that an event leaves on the screen; None for steps and epochs."""
    match event:
        case SweepStarted():
            left = event.n_jobs - event.n_finished
            n_tokens = f"{event.n_tokens:,} tokens at most"
            return f"{count(left, 'adapter')} to train, {event.n_finished} already there, {n_tokens}"
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
        case AdapterMerged():
            return f"{event.job}: merged ({event.method}), {event.wall_s:.0f} s"
        case AdapterFailed():
            return f"{event.job}: FAILED, {event.reason}"
        case Remark():
            return event.message
        case _:
            return None
