"""All adapters of a run, in this process or by the workers of a Ray cluster; what is finished stays finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import polars as pl
from rich.table import Table

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig
from transfergrid.engine.cluster.driver import Executor, do_here, do_on_cluster
from transfergrid.engine.cluster.ray_cluster import ClusterOptions, connect
from transfergrid.engine.interfaces import AdapterError
from transfergrid.grid import UserError
from transfergrid.interrupts import deferred_interrupt
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder
from transfergrid.trainers.adapter_folder import is_finished, unfinished_root
from transfergrid.trainers.events import SweepStarted, TrainingEvent, TrainingEvents, ignore_events
from transfergrid.trainers.jobs import AdapterJob, prepare_jobs
from transfergrid.trainers.on_cluster import TrainingIntake, training_workload
from transfergrid.trainers.sources.merge_jobs import make_merges, prepare_merges

Job = TypeVar("Job", bound=AdapterJob)


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


def train_adapters(
    config: GridConfig,
    run: RunFolder,
    selection: Selection,
    *,
    events: TrainingEvents = ignore_events,
    execute: Executor = do_here,
) -> SweepSummary:
    """Train every selected adapter that is not there yet, then make the merges.

    A job that fails is noted and the others go on. Killed at any point, the same call goes on where it stopped.

    Raises:
        KeyboardInterrupt: After Ctrl-C, between two steps; nothing is left half-written.
        UserError: If a job cannot be trained as configured (before the first starts), an adapter is there that was
            trained with other settings, another process holds the run folder, or the disk is full.
    """
    with hold_run_folder(run.root, "grid train-adapters"), deferred_interrupt() as check_interrupt:
        shutil.rmtree(unfinished_root(run), ignore_errors=True)
        ensure_data(config, run.data)
        kept, pending = _divide(jobs := prepare_jobs(config, run, selection), config)
        kept_merges, pending_merges = _divide(merges := prepare_merges(config, run, selection, jobs), config)

        def tell(event: TrainingEvent) -> None:
            events(event)
            check_interrupt()

        n_tokens = sum(config.of(job.source.variant).training.epochs * job.data.n_train_tokens for job in pending)
        names = _names([*kept, *kept_merges])
        tell(SweepStarted(n_jobs=len(jobs) + len(merges), n_finished=len(names), n_tokens=n_tokens))
        intake = TrainingIntake(config, run, {job.name: job for job in pending}, tell)
        try:
            execute(training_workload(intake, check_interrupt))
            reasons = intake.reasons | make_merges(pending_merges, config, run, tell)
        finally:
            shutil.rmtree(unfinished_root(run), ignore_errors=True)
    return _summary(names, {name: reasons[name] for name in _names([*pending, *pending_merges]) if name in reasons})


def train_adapters_on_cluster(
    config: GridConfig,
    run: RunFolder,
    selection: Selection,
    options: ClusterOptions,
    *,
    events: TrainingEvents = ignore_events,
) -> SweepSummary:
    """Train every selected adapter that is not there yet on a Ray cluster; see ``train_adapters``.

    Raises:
        KeyboardInterrupt: After Ctrl-C; the workers are gone, nothing is left half-written.
        UserError: As ``train_adapters``, and if there is no cluster that could do it.
    """
    with connect(options) as cluster:
        return train_adapters(config, run, selection, events=events, execute=partial(do_on_cluster, cluster))


def _summary(kept: tuple[str, ...], reasons: Mapping[str, str | None]) -> SweepSummary:
    failed = tuple((name, reason) for name, reason in reasons.items() if reason is not None)
    return SweepSummary(tuple(name for name, reason in reasons.items() if reason is None), kept, failed)


def _names(jobs: Iterable[AdapterJob]) -> tuple[str, ...]:
    return tuple(job.name for job in jobs)


def _divide(jobs: Iterable[Job], config: GridConfig) -> tuple[list[Job], list[Job]]:
    """Return finished and unfinished jobs; all adapters of other settings are named at once."""
    kept: list[Job] = []
    pending: list[Job] = []
    faults = []
    for job in jobs:
        try:
            (kept if job.is_ready and is_finished(job, config) else pending).append(job)
        except AdapterError as error:
            faults.append(str(error))
    if faults:
        raise AdapterError(f"{len(faults)} adapter(s) in the way:" + "".join(f"\n  - {fault}" for fault in faults))
    return kept, pending
