"""Events of a training sweep, for the display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStarted:
    """All jobs are checked; training begins."""

    n_jobs: int
    n_finished: int
    """Jobs whose adapters were there already."""
    n_tokens: int
    """Most tokens that are left to train on: all epochs of all unfinished jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLoaded:
    """A base model is in memory; its adapters come next."""

    model: str
    dtype: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStarted:
    """An adapter is attached; its first step comes next."""

    job: str
    epochs: int
    n_steps: int
    n_tokens: int
    """Tokens of all epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """An optimizer step of the current adapter."""

    job: str
    step: int
    epoch: float
    loss: float
    """Mean over the step's supervised tokens, nats."""
    n_tokens: int
    """Tokens trained on since the adapter started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """The validation examples were read after an epoch."""

    job: str
    epoch: int
    validation_loss: float
    """Mean over supervised tokens, nats."""
    is_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHalved:
    """Memory ran out; the adapter starts again with a smaller batch and more accumulation."""

    job: str
    batch_size: int
    gradient_accumulation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFinished:
    """An adapter is saved."""

    job: str
    best_epoch: int
    validation_loss: float
    untrained_loss: float
    """Validation loss of the base."""
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFailed:
    """An adapter was given up; the sweep goes on."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterMerged:
    """An adapter was made of others and is in place."""

    job: str
    method: str
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something a reader should know."""

    message: str


TrainingEvent = (
    SweepStarted
    | BaseLoaded
    | AdapterStarted
    | StepDone
    | EpochDone
    | BatchHalved
    | AdapterFinished
    | AdapterFailed
    | AdapterMerged
    | Remark
)
TrainingEvents = Callable[[TrainingEvent], None]
"""Called with every event, in the thread that trains."""


def ignore_events(_: TrainingEvent) -> None:
    """Show nothing."""
