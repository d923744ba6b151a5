from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from transfergrid.commands.display.training import PlainLines, RunningAdapter, SweepState, show_sweep
from transfergrid.trainers.events import (
    AdapterFailed,
    AdapterFinished,
    AdapterStarted,
    BaseLoaded,
    BatchHalved,
    EpochDone,
    StepDone,
    SweepStarted,
)
from transfergrid.trainers.plan import TrainingPlan
from transfergrid.trainers.sweep import SweepSummary
from transfergrid.wording import format_left


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=100, force_terminal=terminal, color_system=None, highlight=False), text


def play(take: Any, clock: Clock) -> None:
    """A sweep of three adapters of 100 tokens each: one was there, one finishes, one fails."""
    take(SweepStarted(n_jobs=3, n_finished=1, n_tokens=200))
    take(BaseLoaded(model="tiny", dtype="float32", device="cpu"))
    take(AdapterStarted(job="a", epochs=2, n_steps=4, n_tokens=100))
    clock.now += 10
    take(StepDone(job="a", step=1, epoch=0.5, loss=2.5, n_tokens=25))
    take(EpochDone(job="a", epoch=1, validation_loss=2.25, is_best=True))
    clock.now += 30
    take(StepDone(job="a", step=3, epoch=1.5, loss=1.5, n_tokens=75))
    take(AdapterFinished(job="a", best_epoch=1, validation_loss=2.25, untrained_loss=3.5, wall_s=40.4))
    take(AdapterStarted(job="b", epochs=2, n_steps=4, n_tokens=100))
    take(BatchHalved(job="b", batch_size=4, gradient_accumulation=2))
    take(AdapterFailed(job="b", reason="loss is nan at step 1"))


def test_plain_lines_tell_of_what_ended_and_now_and_then_of_steps() -> None:
    (out, text), clock = console(), Clock()
    play(PlainLines(out, SweepState(clock)), clock)
    assert text.getvalue().splitlines() == [
        "2 adapters to train, 1 already there, 200 tokens at most",
        "base tiny loaded: float32 on cpu",
        "a: epoch 2/2, step 3/4, loss 1.5000, validation 2.2500, 2 tok/s",
        "[2/3] a: validation loss 3.5000 before, 2.2500 after epoch 1, 40 s; 0:00:40 left",
        "b: memory ran out, starting again with batch 4 and accumulation 2",
        "[3/3] b: FAILED, loss is nan at step 1; 0:00:00 left",
    ]


def test_view_shows_the_sweep_and_the_current_adapter() -> None:
    (out, text), clock, state = console(), Clock(), SweepState()
    state = SweepState(clock)
    state.take(SweepStarted(n_jobs=3, n_finished=1, n_tokens=200))
    state.take(AdapterStarted(job="a", epochs=2, n_steps=4, n_tokens=100))
    clock.now = 10
    state.take(StepDone(job="a", step=2, epoch=1.0, loss=2.5, n_tokens=50))
    out.print(state)
    first, second = text.getvalue().splitlines()
    assert first.startswith("1/3 adapters")
    assert first.rstrip().endswith("0 failed, 0:00:30 left")
    assert second.startswith("a ")
    assert second.rstrip().endswith("epoch 1/2, step 2/4, loss 2.5000, 5 tok/s")
    state.take(AdapterFinished(job="a", best_epoch=1, validation_loss=2.25, untrained_loss=3.5, wall_s=10.0))
    out.print(state)
    assert len(text.getvalue().splitlines()) == 3  # between adapters the sweep alone


def test_time_left_is_unknown_before_the_first_step() -> None:
    assert SweepState().left_s is None
    assert format_left(None) == "time left unknown"


def test_epoch_of_a_step_counts_from_one() -> None:
    adapter = RunningAdapter("a", epochs=3, n_steps=6, n_tokens=1, started_s=0.0)
    epochs = []
    for step in range(7):
        adapter.step = step
        epochs.append(adapter.epoch)
    assert epochs == [1, 1, 1, 2, 2, 3, 3]


def test_adapters_of_several_workers_have_a_line_each() -> None:
    (out, text), clock = console(), Clock()
    state = SweepState(clock)
    state.take(SweepStarted(n_jobs=2, n_finished=0, n_tokens=200))
    for job in ("a", "b"):
        state.take(AdapterStarted(job=job, epochs=1, n_steps=2, n_tokens=100))
    clock.now = 10
    state.take(StepDone(job="a", step=1, epoch=0.5, loss=2.5, n_tokens=50))
    state.take(StepDone(job="b", step=2, epoch=1.0, loss=1.5, n_tokens=100))
    out.print(state)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert lines[0].endswith("0 failed, 0:00:03 left")
    assert lines[1].endswith("epoch 1/1, step 1/2, loss 2.5000, 5 tok/s")
    assert lines[2].endswith("epoch 1/1, step 2/2, loss 1.5000, 10 tok/s")
    state.take(AdapterFailed(job="c", reason="never started"))
    assert (state.n_failed, set(state.running)) == (1, {"a", "b"})


@pytest.mark.parametrize("terminal", [False, True])
def test_both_displays_show_failures(terminal: bool) -> None:
    out, text = console(terminal=terminal)
    with show_sweep(out) as take:
        play(take, Clock())
    assert "b: FAILED, loss is nan at step 1" in text.getvalue()
    assert ("2/3 adapters" in text.getvalue()) is terminal


@pytest.mark.parametrize(("width", "n_lines"), [(80, 2), (100, 1)])
def test_a_plan_shows_every_word_in_a_narrow_terminal(width: int, n_lines: int) -> None:
    text = io.StringIO()
    row = ("Llama-3.2-1B-Instruct s17 arc_challenge-de", 360, 135, 12_345_678, 400, "failed before")
    Console(file=text, width=width, color_system=None).print(TrainingPlan((row,)))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    body = [line.replace("│", " ") for line in lines if line.startswith("│")]
    assert len(body) == n_lines
    words = ["Llama-3.2-1B-Instruct", "s17", "arc_challenge-de", "360", "135", "12,345,678", "400", "failed", "before"]
    assert sorted(" ".join(body).split()) == sorted(words)


@pytest.mark.parametrize("terminal", [False, True])
def test_names_with_brackets_are_shown_as_they_are(terminal: bool) -> None:
    out, text = console(terminal=terminal)
    with show_sweep(out) as take:
        take(SweepStarted(n_jobs=1, n_finished=0, n_tokens=1))
        take(BaseLoaded(model="x[/bold]-1B", dtype="float32", device="cpu"))
        take(AdapterStarted(job="x[/bold]-1B s17", epochs=1, n_steps=1, n_tokens=1))
    out.print(TrainingPlan((("x[/bold]-1B arc-en", 1, 1, 1, 0, "to do"),)))
    assert "base x[/bold]-1B loaded" in text.getvalue()
    assert "x[/bold]-1B arc-en" in text.getvalue()
    assert ("x[/bold]-1B s17" in text.getvalue()) is terminal


def test_summary_and_plan_render_as_tables() -> None:
    out, text = console()
    out.print(SweepSummary(("a",), ("b", "c"), (("d", "reason"),)))
    out.print(TrainingPlan((("tiny s17 arc_challenge-en", 14, 6, 8160, 2, "to do"),)))
    rows = [line.replace("│", " ").split() for line in text.getvalue().splitlines()]
    assert ["1", "2", "1"] in rows
    assert ["tiny", "s17", "arc_challenge-en", "14", "6", "8,160", "2", "to", "do"] in rows
