"""``grid train-adapters --ray``: the adapters of every model as units of work for the workers of a Ray cluster.

The driver holds the run folder and the progress. Workers that see the run folder save adapters into it themselves; the
others send the files, and the driver moves them into place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.config.file import absolute_models
from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig
from transfergrid.engine.cluster.host import ModelRefusedError, Send
from transfergrid.engine.cluster.loop import UnitLoop, make_probe
from transfergrid.engine.cluster.ray_cluster import Cluster, ClusterOptions, connect
from transfergrid.engine.cluster.units import Unit, UnitQueue, group_units
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.grid import Cell, UserError
from transfergrid.store.files import write_text
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.adapter_folder import (
    is_finished,
    mark_failed,
    place_adapter,
    read_adapter,
    unfinished_folder,
)
from transfergrid.trainers.base_model import LoadedBase
from transfergrid.trainers.events import (
    AdapterFailed,
    AdapterFinished,
    Remark,
    TrainingEvent,
    TrainingEvents,
    ignore_events,
)
from transfergrid.trainers.jobs import CellData, ResolvedModel, TrainingJob, find_model
from transfergrid.trainers.sweep import (
    SweepSummary,
    TrainingResult,
    TrainingTask,
    open_base,
    train_adapters,
    train_one,
)
from transfergrid.trainers.trackers import check_trackers


class JobOrder(NamedTuple):
    """A training job as it is sent; the worker finds the base on its own machine."""

    seed: int
    cell: Cell
    data: CellData


class TrainingUnit(NamedTuple):
    """What is sent to a worker."""

    model: str
    revision: str
    dtype: str
    """Number format that the command resolved; it stands in the adapters' keys."""
    jobs: tuple[JobOrder, ...]
    sees_run: bool


class SentAdapter(NamedTuple):
    """A finished adapter on its way to the driver, which moves it into place."""

    job: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """What every worker is told once."""

    config: GridConfig
    root: Path
    """The run folder, on machines that see it."""


def train_adapters_on_cluster(
    config: GridConfig,
    run: RunFolder,
    selection: Selection,
    options: ClusterOptions,
    *,
    events: TrainingEvents = ignore_events,
) -> SweepSummary:
    """Train every selected adapter that is not there yet on a Ray cluster; see ``sweep.train_adapters``.

    Raises:
        KeyboardInterrupt: After Ctrl-C; the workers are gone, nothing is left half-written.
        UserError: As ``sweep.train_adapters``, and if there is no cluster that could do it.
    """
    with connect(options) as cluster:
        return train_adapters(config, run, selection, events=events, execute=partial(train_on_cluster, cluster))


def train_on_cluster(cluster: Cluster, task: TrainingTask) -> Iterable[TrainingResult]:
    """Train what is left on a cluster; an ``Execute`` of the sweep once a cluster is bound.

    Raises:
        UserError: If an adapter cannot be saved, or attempt after attempt fails.
    """
    groups: dict[tuple[str, int | None], list[TrainingJob]] = {}
    for job in task.pending:
        groups.setdefault((job.model.config.name, job.seed), []).append(job)
    sizes = {job.model.folder: read_model_facts(job.model.folder).n_layer_parameters for job in task.pending}
    units = group_units(
        groups, lambda job: float(sizes[job.model.folder] * job.data.n_train_tokens), n_workers=cluster.shape.n_workers
    )
    return _Driver(cluster, task).run(units) if units else []


@dataclass(slots=True)
class _Driver:
    """Takes in what workers send."""

    cluster: Cluster
    task: TrainingTask
    _jobs: dict[str, TrainingJob] = field(default_factory=dict)
    _reasons: dict[str, str | None] = field(default_factory=dict)
    """By job that ended: why it failed; None if it did not."""

    def run(self, units: list[Unit[TrainingJob]]) -> list[TrainingResult]:
        self._jobs = {job.name: job for job in self.task.pending}
        self._note(self.cluster.describe(len(units)))
        probe, queue = make_probe(self.task.run.root), UnitQueue(units)
        setup = TrainingSetup(absolute_models(self.task.config), self.task.run.root.resolve())
        write_text(probe.path, probe.content)
        try:
            actors = self.cluster.start_workers(partial(TrainingRunner, setup))
            UnitLoop(
                self.cluster,
                queue,
                actors,
                probe,
                self._take_in,
                self._left,
                self._note,
                partial(pack_unit, dtype=resolve_dtype(self.task.config.training.dtype)),
                self.task.check_interrupt,
            ).run()
        finally:
            probe.path.unlink(missing_ok=True)
            self.cluster.stop_workers()
        for given_up in queue.given_up:
            for job in given_up.unit.jobs:
                self._take_in(AdapterFailed(job=job.name, reason=given_up.reason))
        return [(job, self._reasons[job.name]) for job in self.task.pending if job.name in self._reasons]

    def _take_in(self, message: Any) -> None:
        match message:
            case SentAdapter():
                job = self._jobs[message.job]
                if not job.folder.exists():
                    with unfinished_folder(self.task.run, job) as folder:
                        place_adapter(folder, job, message.files)
                return
            case AdapterFinished():
                self._reasons[message.job] = None
            case AdapterFailed():
                mark_failed(self._jobs[message.job], message.reason)
                self._reasons[message.job] = message.reason
        self.task.tell(message)

    def _left(self, unit: Unit[TrainingJob]) -> Sequence[TrainingJob]:
        for job in unit.jobs:
            if job.name not in self._reasons and is_finished(job, self.task.config):
                self._reasons[job.name] = None  # saved, and killed before it could tell
        return [job for job in unit.jobs if job.name not in self._reasons]

    def _note(self, message: str) -> None:
        self.task.tell(Remark(message=message))


def pack_unit(unit: Unit[TrainingJob], sees_run: bool, *, dtype: str) -> TrainingUnit:
    """Return a unit as it is sent: without tokenizer and folders, which are another machine's."""
    orders = tuple(JobOrder(job.seed, job.cell, job.data) for job in unit.jobs)
    return TrainingUnit(unit.model, unit.jobs[0].model.revision, dtype, orders, sees_run)


class TrainingRunner:
    """Does training units in a worker; holds one base."""

    def __init__(self, setup: TrainingSetup, name: str) -> None:
        self._setup = setup
        self._name = name
        self._model: ResolvedModel | None = None
        self._base: LoadedBase | None = None

    def run(self, unit: TrainingUnit, send: Send) -> None:
        """Train a unit's adapters; each is saved or sent when its event is.

        Raises:
            ModelRefusedError: If the base cannot be loaded here, is another revision, or would be computed in
                another number format.
            UserError: If an adapter cannot be saved.
        """
        if unit.sees_run:
            self._train(unit, RunFolder(self._setup.root), send)
            return
        with tempfile.TemporaryDirectory(prefix="training-") as folder:
            self._train(unit, RunFolder(Path(folder)), send)

    def _train(self, unit: TrainingUnit, run: RunFolder, send: Send) -> None:
        for order in unit.jobs:
            model = self._find(unit)
            job = TrainingJob(model, *order, run.adapter(unit.model, order.seed, order.cell))
            tell = send if unit.sees_run else partial(_tell_with_files, job, send)
            if self._base is None:
                self._base = self._open(job, tell)
            train_one(job, self._base, self._setup.config, run, events=tell)

    def _open(self, job: TrainingJob, tell: Send) -> LoadedBase:
        try:
            return open_base(job, self._setup.config, tell)
        except UserError as error:
            raise ModelRefusedError(str(error)) from error

    def _find(self, unit: TrainingUnit) -> ResolvedModel:
        """Return the base on this machine; drop the one before where that is another."""
        if self._model is not None and self._model.config.name == unit.model:
            return self._model
        self._model = self._base = None
        config = next(model for model in self._setup.config.models if model.name == unit.model)
        training = self._setup.config.training
        if (dtype := resolve_dtype(training.dtype)) != unit.dtype:
            raise ModelRefusedError(
                f"{self._name} would train {unit.model!r} in {dtype}, the command's number format is {unit.dtype}; set "
                "training.dtype to the one that is meant"
            )
        try:
            check_trackers(training.report_to)
            model = find_model(config, self._setup.config.lora.target_modules)
        except UserError as error:
            raise ModelRefusedError(str(error)) from error
        if model.revision != unit.revision:
            raise ModelRefusedError(
                f"{self._name} has revision {model.revision[:12]} of {unit.model!r}, the command has "
                f"{unit.revision[:12]}; use the same files on all machines"
            )
        self._model = replace(model, config=config)
        return self._model


def _tell_with_files(job: TrainingJob, send: Send, event: TrainingEvent) -> None:
    """Send an adapter's files before the event that it is finished."""
    if isinstance(event, AdapterFinished):
        send(SentAdapter(job.name, read_adapter(job.folder)))
    send(event)
