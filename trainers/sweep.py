"""All adapters of a run, one after another on one base in memory; what is finished stays finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

import polars as pl
from rich.table import Table

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig
from transfergrid.engine.interfaces import AdapterError
from transfergrid.grid import UserError
from transfergrid.interrupts import deferred_interrupt
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder
from transfergrid.trainers.adapter_folder import (
    is_finished,
    mark_failed,
    save_adapter,
    unfinished_folder,
    unfinished_root,
)
from transfergrid.trainers.adapter_training import train_adapter
from transfergrid.trainers.base_model import LoadedBase, expected_keys, load_base
from transfergrid.trainers.events import (
    AdapterFailed,
    AdapterFinished,
    BaseLoaded,
    Remark,
    SweepStarted,
    TrainingEvent,
    TrainingEvents,
    ignore_events,
)
from transfergrid.trainers.jobs import TrainingJob, prepare_jobs
from transfergrid.trainers.record import TrainedAdapter, make_record
from transfergrid.trainers.trackers import tracked_run


class SaveError(UserError):
    """An adapter that cannot be saved: the next one could not be either, so the sweep ends."""


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep did."""

    finished: tuple[str, ...]
    """Adapters trained now."""
    kept: tuple[str, ...]
    """Adapters that were there already."""
    failed: tuple[tuple[str, str], ...]
    """Adapters given up, each with the reason."""

    def __rich__(self) -> Table:
        """Render counts and the failed adapters."""
        table = Table(title="Adapters")
        for name in ("trained", "already there", "failed"):
            table.add_column(name, justify="right")
        table.add_row(str(len(self.finished)), str(len(self.kept)), str(len(self.failed)))
        return table

    def rows(self) -> pl.DataFrame:
        """Return one row per adapter: its name, what became of it, and why it failed."""
        states = {"trained": self.finished, "already there": self.kept}
        found = [(name, state, None) for state, names in states.items() for name in names]
        failed = [(name, "failed", reason) for name, reason in self.failed]
        schema = {"adapter": pl.String, "state": pl.String, "reason": pl.String}
        return pl.DataFrame([*found, *failed], schema=schema, orient="row")

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object per adapter."""
        return self.rows().to_dicts()

    def raise_failures(self) -> None:
        """Raise if any adapter failed.

        Raises:
            UserError: With every failed adapter and its reason.
        """
        if self.failed:
            total = len(self.finished) + len(self.kept) + len(self.failed)
            raise UserError(
                f"{len(self.failed)} of {total} adapters failed:"
                + "".join(f"\n  - {job}: {reason}" for job, reason in self.failed)
            )


class TrainingTask(NamedTuple):
    """Adapters that are left to train."""

    pending: tuple[TrainingJob, ...]
    config: GridConfig
    run: RunFolder
    tell: TrainingEvents
    check_interrupt: Callable[[], None]
    """Raises KeyboardInterrupt once Ctrl-C was pressed; to be called where it does no harm."""


TrainingResult = tuple[TrainingJob, str | None]
"""A job and why it failed; None if it did not."""
Execute = Callable[[TrainingTask], Iterable[TrainingResult]]
"""Trains what is left: in this process, or on a cluster."""


def train_adapters(
    config: GridConfig,
    run: RunFolder,
    selection: Selection,
    *,
    events: TrainingEvents = ignore_events,
    execute: Execute | None = None,
) -> SweepSummary:
    """Train every selected adapter that is not there yet.

    A job that fails is noted and the others go on. Killed at any point, the same call goes on where it stopped.

    Args:
        config: The run's configuration.
        run: Its folder.
        selection: Models, seeds and source cells.
        events: Told of everything that happens.
        execute: Does the training; None is this process.

    Raises:
        KeyboardInterrupt: After Ctrl-C, between two steps; nothing is left half-written.
        UserError: If a job cannot be trained as configured (before the first starts), an adapter is there that was
            trained with other settings, another process holds the run folder, or the disk is full.
    """
    with hold_run_folder(run.root, "grid train-adapters"), deferred_interrupt() as check_interrupt:
        shutil.rmtree(unfinished_root(run), ignore_errors=True)
        ensure_data(config, run.data)
        kept, pending = _divide(prepare_jobs(config, run, selection), config)

        def tell(event: TrainingEvent) -> None:
            events(event)
            check_interrupt()

        n_tokens = sum(config.training.epochs * job.data.n_train_tokens for job in pending)
        tell(SweepStarted(n_jobs=len(kept) + len(pending), n_finished=len(kept), n_tokens=n_tokens))
        try:
            outcomes = list((execute or train_here)(TrainingTask(tuple(pending), config, run, tell, check_interrupt)))
        finally:
            shutil.rmtree(unfinished_root(run), ignore_errors=True)
    return SweepSummary(
        finished=tuple(job.name for job, reason in outcomes if reason is None),
        kept=tuple(job.name for job in kept),
        failed=tuple((job.name, reason) for job, reason in outcomes if reason is not None),
    )


def _divide(jobs: Iterable[TrainingJob], config: GridConfig) -> tuple[list[TrainingJob], list[TrainingJob]]:
    """Return finished and unfinished jobs; all adapters of other settings are named at once."""
    kept: list[TrainingJob] = []
    pending: list[TrainingJob] = []
    faults = []
    for job in jobs:
        try:
            (kept if is_finished(job, config) else pending).append(job)
        except AdapterError as error:
            faults.append(str(error))
    if faults:
        raise AdapterError(f"{len(faults)} adapter(s) in the way:" + "".join(f"\n  - {fault}" for fault in faults))
    return kept, pending


def train_here(task: TrainingTask) -> Iterable[TrainingResult]:
    """Load each base once and hand it the jobs; yield every job with the reason it failed, or None."""
    for _, of_model in groupby(task.pending, key=lambda job: job.model.config.name):
        base = None
        for job in of_model:
            if base is None:
                base = open_base(job, task.config, task.tell)
            yield job, train_one(job, base, task.config, task.run, events=task.tell)


def open_base(job: TrainingJob, config: GridConfig, events: TrainingEvents) -> LoadedBase:
    """Load the base of a job."""
    base = load_base(job.model.folder, config.training)
    name = job.model.config.name
    events(BaseLoaded(model=name, dtype=base.dtype, device=base.device))
    if not base.plain_head:
        events(Remark(message=f"{name}: its logits are more than one projection; the loss goes TRL's slower way"))
    return base


def train_one(
    job: TrainingJob, base: LoadedBase, config: GridConfig, run: RunFolder, *, events: TrainingEvents
) -> str | None:
    """Train and save one adapter; return why it failed, None if it did not."""
    started = datetime.now(UTC)
    expected = expected_keys(base.model, config.lora.target_modules)
    with unfinished_folder(run, job) as folder:

        def save(model: object, trained: TrainedAdapter) -> None:
            record = make_record(job, base, config, trained, started=started)
            try:
                save_adapter(model, folder, job, record=record, expected=expected)
            except UserError as error:
                raise SaveError(str(error)) from error

        try:
            with tracked_run(config.training.report_to, run.tracking, job.name):
                trained = train_adapter(job, base, config, scratch=folder, events=events, save=save)
        except SaveError:
            raise
        except UserError as error:
            mark_failed(job, str(error))
            events(AdapterFailed(job=job.name, reason=str(error)))
            return str(error)
    events(
        AdapterFinished(
            job=job.name,
            best_epoch=trained.best_epoch,
            validation_loss=trained.best_validation_loss,
            untrained_loss=trained.untrained_validation_loss,
            wall_s=trained.wall_s,
        )
    )
    return None
