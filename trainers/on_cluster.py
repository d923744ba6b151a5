"""Training by the workers of a cluster: the unit that is sent, the runner that trains it, the adapter that comes back.

Workers that see the run folder save adapters into it themselves; the others send the files. ``engine.cluster.units``
says what a job, a unit, a worker and the driver are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from transfergrid.config.file import absolute_models
from transfergrid.config.settings import GridConfig
from transfergrid.engine.cluster.host import ModelRefusedError, Send
from transfergrid.engine.cluster.units import Unit, Workload
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.grid import Source, UserError
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
)
from transfergrid.trainers.examples import CellData
from transfergrid.trainers.jobs import ResolvedModel, TrainingJob, find_model
from transfergrid.trainers.side_by_side import train_jobs, train_model
from transfergrid.trainers.trackers import check_trackers
from transfergrid.trainers.train_one import open_base


class JobOrder(NamedTuple):
    """A training job as it is sent; the worker finds the base on its own machine."""

    seed: int
    source: Source
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


@dataclass(slots=True)
class TrainingIntake:
    """Takes in what comes of the jobs of a sweep."""

    config: GridConfig
    run: RunFolder
    jobs: Mapping[str, TrainingJob]
    """By name, model after model."""
    tell: TrainingEvents
    reasons: dict[str, str | None] = field(default_factory=dict)
    """By name of a job that ended: why it failed; None if it did not."""

    def take_in(self, message: SentAdapter | TrainingEvent) -> None:
        """Move an adapter into place, or keep how a job ended; pass events on."""
        match message:
            case SentAdapter():
                job = self.jobs[message.job]
                if not job.folder.exists():
                    with unfinished_folder(self.run, job) as folder:
                        place_adapter(folder, job, message.files)
                return
            case AdapterFinished():
                self.reasons[message.job] = None
            case AdapterFailed():
                mark_failed(self.jobs[message.job], message.reason)
                self.reasons[message.job] = message.reason
        self.tell(message)

    def left(self, unit: Unit[TrainingJob]) -> Sequence[TrainingJob]:
        """Return the jobs of a unit that did not end."""
        for job in unit.jobs:
            if job.name not in self.reasons and is_finished(job, self.config):
                self.reasons[job.name] = None  # saved, and the worker was killed before it said so
        return [job for job in unit.jobs if job.name not in self.reasons]


def training_workload(intake: TrainingIntake, check: Callable[[], None]) -> Workload[TrainingJob]:
    """Return what is left to train as an executor takes it; ``check`` raises KeyboardInterrupt after Ctrl-C."""
    config, run = intake.config, intake.run
    size = cache(lambda folder: read_model_facts(folder).n_layer_parameters)
    by_model = groupby(intake.jobs.values(), key=lambda job: job.model.config.name)
    return Workload(
        root=run.root,
        jobs={model: tuple(jobs) for model, jobs in by_model},
        do=lambda _, jobs: train_model(jobs, config, run, intake.take_in),
        seed=lambda job: job.seed,
        cost=lambda job: float(size(job.model.folder) * job.data.n_train_tokens),
        make_runner=partial(TrainingRunner, absolute_models(config), run.root.resolve()),
        pack=partial(pack_unit, dtype=resolve_dtype(config.training.dtype)),
        take_in=intake.take_in,
        left=intake.left,
        give_up=lambda job, reason: intake.take_in(AdapterFailed(job=job.name, reason=reason)),
        note=lambda message: intake.tell(Remark(message=message)),
        check=check,
    )


def pack_unit(unit: Unit[TrainingJob], sees_run: bool, *, dtype: str) -> TrainingUnit:
    """Return a unit as it is sent: without tokenizer and folders, which are another machine's."""
    orders = tuple(JobOrder(job.seed, job.source, job.data) for job in unit.jobs)
    return TrainingUnit(unit.model, unit.jobs[0].model.revision, dtype, orders, sees_run)


class TrainingRunner:
    """Trains units in a worker; holds one base."""

    def __init__(self, config: GridConfig, root: Path, name: str) -> None:
        """Take the run folder's path on machines that see it, and the worker's name."""
        self._config, self._root, self._name = config, root, name
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
            self._train(unit, RunFolder(self._root), send)
            return
        with tempfile.TemporaryDirectory(prefix="training-") as folder:
            self._train(unit, RunFolder(Path(folder)), send)

    def _train(self, unit: TrainingUnit, run: RunFolder, send: Send) -> None:
        model = self._find(unit)
        jobs = [
            TrainingJob(model, seed, source, run.adapter(unit.model, seed, source), data)
            for seed, source, data in unit.jobs
        ]
        tell = send if unit.sees_run else partial(_tell_with_files, {job.name: job for job in jobs}, send)
        if self._base is None:
            try:
                self._base = open_base(jobs[0], self._config, tell)
            except UserError as error:
                raise ModelRefusedError(str(error)) from error
        train_jobs(jobs, self._base, self._config, run, events=tell)

    def _find(self, unit: TrainingUnit) -> ResolvedModel:
        """Return the base on this machine; drop the one before where that is another."""
        if self._model is not None and self._model.config.name == unit.model:
            return self._model
        self._model = self._base = None
        config = next(model for model in self._config.models if model.name == unit.model)
        training = self._config.training
        if (dtype := resolve_dtype(training.dtype)) != unit.dtype:
            raise ModelRefusedError(
                f"{self._name} would train {unit.model!r} in {dtype}, the command's number format is {unit.dtype}; set "
                "training.dtype to the one that is meant"
            )
        try:
            check_trackers(training.report_to)
            model = find_model(config, self._config.lora.target_modules)
        except UserError as error:
            raise ModelRefusedError(str(error)) from error
        if model.revision != unit.revision:
            raise ModelRefusedError(
                f"{self._name} has revision {model.revision[:12]} of {unit.model!r}, the command has "
                f"{unit.revision[:12]}; use the same files on all machines"
            )
        self._model = replace(model, config=config)
        return self._model


def _tell_with_files(jobs: Mapping[str, TrainingJob], send: Send, event: TrainingEvent) -> None:
    """Send an adapter's files before the event that it is finished."""
    if isinstance(event, AdapterFinished):
        send(SentAdapter(event.job, read_adapter(jobs[event.job].folder)))
    send(event)
