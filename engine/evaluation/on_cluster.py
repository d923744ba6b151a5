"""``grid eval --ray``: the sources of every model as units of work for the workers of a Ray cluster.

The driver holds the run folder, the failures and the progress. Workers that see the run folder write parts into it
themselves; the others send them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from transfergrid.config.file import absolute_models
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.cluster.host import ModelRefusedError, Send
from transfergrid.engine.cluster.loop import UnitLoop, make_probe
from transfergrid.engine.cluster.ray_cluster import Cluster, ClusterOptions, connect
from transfergrid.engine.cluster.units import Unit, UnitQueue, group_units
from transfergrid.engine.evaluation.events import (
    CellFinished,
    Event,
    Failed,
    ModelOpened,
    Notice,
    OnEvent,
    SourceFinished,
    SourceStarted,
    ignore_events,
)
from transfergrid.engine.evaluation.score_model import OpenModel, open_model, source_failure
from transfergrid.engine.evaluation.summary import EvaluationReport
from transfergrid.engine.evaluation.sweep import Task, evaluate
from transfergrid.engine.interfaces import Adapter, ScorerMaker
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.work.base_model import BaseModel, resolve_base
from transfergrid.engine.work.failures import Failure
from transfergrid.engine.work.jobs import SourceJob
from transfergrid.engine.work.request import EvalRequest
from transfergrid.engine.work.targets import Target
from transfergrid.grid import Cell, UserError
from transfergrid.store.files import hash_files, write_text
from transfergrid.store.folder import RunFolder
from transfergrid.store.key import changed_parts
from transfergrid.store.score_store import CellRecord, Origin, ScoreStore
from transfergrid.store.score_writer import PartWriter, StoreWriter


class SentPart(NamedTuple):
    """A part on its way to the driver, which stores it."""

    origin: Origin
    key_parts: Mapping[str, Any]
    cells: tuple[CellRecord, ...]
    rows: pl.DataFrame


class ScoringUnit(NamedTuple):
    """What is sent to a worker."""

    model: str
    jobs: tuple[SourceJob, ...]
    sees_run: bool
    files: Mapping[str, tuple[bytes, bytes]]
    """Configuration and weights by content hash of adapters that the worker does not see."""


@dataclass(frozen=True, slots=True)
class ScoringSetup:
    """What every worker is told once."""

    config: GridConfig
    maker: ScorerMaker
    bases: Mapping[str, BaseModel]
    max_ranks: Mapping[str, int]
    targets: Mapping[Cell, Target]
    scores: Path


def evaluate_on_cluster(
    config: GridConfig,
    run: RunFolder,
    request: EvalRequest,
    options: ClusterOptions,
    *,
    maker: ScorerMaker,
    on_event: OnEvent = ignore_events,
) -> EvaluationReport:
    """Score what is asked for and is not in the store on a Ray cluster; see ``sweep.evaluate``.

    Raises:
        UserError: As ``sweep.evaluate``, and if there is no cluster that could do it.
    """
    if request.noise_floor:
        raise UserError(
            "--noise-floor is measured by one process; score with --ray, then give 'grid eval --noise-floor --source "
            "base' without --ray"
        )
    wide = replace(options, gpus_per_worker=config.engine.tensor_parallel_size)
    with connect(wide) as cluster:
        execute = partial(score_on_cluster, cluster)
        return evaluate(config, run, request, maker=maker, on_event=on_event, execute=execute)


def score_on_cluster(cluster: Cluster, task: Task) -> None:
    """Score what is left on a cluster; an ``Execute`` of the sweep once a cluster is bound.

    Raises:
        UserError: If a part cannot be stored, or attempt after attempt fails.
    """
    groups: dict[tuple[str, int | None], list[SourceJob]] = {}
    for model in task.models:
        for job in model.jobs.jobs:
            groups.setdefault((job.origin.model, job.origin.seed), []).append(job)
    sizes = {m.jobs.base.name: read_model_facts(m.jobs.base.folder).n_layer_parameters for m in task.models}
    units = group_units(
        groups, lambda job: float(sizes[job.origin.model] * len(job.targets)), n_workers=cluster.shape.n_workers
    )
    if units:
        _Driver(cluster, task).run(units)


@dataclass(slots=True)
class _Driver:
    """Takes in what workers send."""

    cluster: Cluster
    task: Task
    _seen: set[Any] = field(default_factory=set)
    _failed: set[tuple[str, int | None, str | None, str | None]] = field(default_factory=set)
    """Model, seed, source and target of what is told of as failed; target None: all of the source's."""

    def run(self, units: list[Unit[SourceJob]]) -> None:
        task, probe = self.task, make_probe(self.task.run.root)
        self._note(self.cluster.describe(len(units)))
        queue = UnitQueue(units)
        write_text(probe.path, probe.content)
        try:
            actors = self.cluster.start_workers(partial(ScoringRunner, _setup(task)))
            loop = UnitLoop(self.cluster, queue, actors, probe, self._take_in, self._left, self._note, pack_unit)
            loop.run()
        finally:
            probe.path.unlink(missing_ok=True)
            self.cluster.stop_workers()
        for given_up in queue.given_up:
            for job in given_up.unit.jobs:
                task.tell(Failed(source_failure(job.origin, given_up.reason)))
        task.store.scan()  # a worker that was taken for dead may have written a cell a second time

    def _take_in(self, message: Any) -> None:
        match message:
            case SentPart():
                self.task.store.write(*message)
            case CellFinished():
                self._tell_once((message.origin, message.record.target), message)
            case SourceFinished() | SourceStarted():
                self._tell_once((type(message), message.origin), message)
            case Failed():
                self._note_failure(message.failure)
                self.task.tell(message)
            case _:
                self.task.tell(message)

    def _tell_once(self, key: Any, event: Event) -> None:
        """Pass an event on unless it came before: what a dead worker had not stored is done again."""
        if key not in self._seen:
            self._seen.add(key)
            self.task.tell(event)

    def _note_failure(self, failure: Failure) -> None:
        self._failed.add((failure.model, failure.seed, failure.source, failure.target))

    def _has_failed(self, origin: Origin, target: Cell) -> bool:
        """Whether a cell, or its whole source, is told of as failed, so that nobody tries it again in this sweep."""
        source = (origin.model, origin.seed, origin.source.name)
        return (*source, target.name) in self._failed or (*source, None) in self._failed

    def _left(self, unit: Unit[SourceJob]) -> Sequence[SourceJob]:
        """Return what of a unit is neither stored nor told of as failed."""
        finished = self.task.store.scan(repair=False).finished()
        left = (
            replace(
                job,
                targets=tuple(
                    t for t in job.targets if (job.origin, t) not in finished and not self._has_failed(job.origin, t)
                ),
            )
            for job in unit.jobs
        )
        return [job for job in left if job.targets]

    def _note(self, message: str) -> None:
        self.task.tell(Notice(message))


def _setup(task: Task) -> ScoringSetup:
    return ScoringSetup(
        config=absolute_models(task.config),
        maker=task.maker,
        bases={model.jobs.base.name: model.jobs.base for model in task.models},
        max_ranks={model.jobs.base.name: model.max_rank for model in task.models},
        targets=task.targets,
        scores=task.store.folder.resolve(),
    )


def pack_unit(unit: Unit[SourceJob], sees_run: bool) -> ScoringUnit:
    """Return a unit as it is sent: with the adapters' files for a worker that does not see the run folder."""
    jobs = tuple(
        job if job.adapter is None else replace(job, adapter=replace(job.adapter, path=job.adapter.path.resolve()))
        for job in unit.jobs
    )
    adapters = [job.adapter for job in jobs if job.adapter is not None and not sees_run]
    files = {a.content_hash: tuple((a.path / name).read_bytes() for name in _FILES) for a in adapters}
    return ScoringUnit(unit.model, jobs, sees_run, files)  # type: ignore[arg-type]


_FILES = (CONFIG_FILE, WEIGHTS_FILE)


class ScoringRunner:
    """Does scoring units in a worker; holds one model."""

    def __init__(self, setup: ScoringSetup, name: str) -> None:
        self._setup = setup
        self._name = name
        self._model: OpenModel | None = None
        self._send: Send = print

    def run(self, unit: ScoringUnit, send: Send) -> None:
        """Score a unit's sources; finished cells are stored or sent when it returns.

        Raises:
            ModelRefusedError: If the model cannot be loaded here, or would give other numbers.
            Exception: What the engine raised.
        """
        self._send = send
        model = self._hold(unit.model)
        folder = Path(tempfile.mkdtemp(prefix="adapters-"))
        try:
            store: PartWriter = ScoreStore(self._setup.scores) if unit.sees_run else _Outbox(self._setup.scores, send)
            jobs = [job for job in (self._localise(job, unit.files, folder) for job in unit.jobs) if job is not None]
            with StoreWriter(store) as writer:
                model.score_sources(jobs, writer)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _tell(self, event: Event) -> None:
        self._send(replace(event, model=f"{event.model} in {self._name}") if isinstance(event, ModelOpened) else event)

    def _hold(self, name: str) -> OpenModel:
        """Return the model, loaded in place of the one before where that is another."""
        if self._model is not None and self._model.base.name == name:
            return self._model
        if self._model is not None:
            self._model.scorer.close()
            self._model = None
        setup = self._setup
        try:
            base = self._local_base(setup.bases[name])
            self._model = open_model(
                base, setup.targets, maker=setup.maker, max_rank=setup.max_ranks[name], tell=self._tell
            )
        except UserError as error:
            raise ModelRefusedError(str(error)) from error
        return self._model

    def _local_base(self, wanted: BaseModel) -> BaseModel:
        """Find the base on this machine, and see that its numbers are those that the driver expects."""
        setup = self._setup
        config = next(model for model in setup.config.models if model.name == wanted.name)
        base = resolve_base(setup.config, config, setup.maker)
        if changes := changed_parts(wanted.shared_parts, base.shared_parts):
            raise ModelRefusedError(
                f"here it would give other numbers than where the command runs ({'; '.join(changes)}); use the same "
                "files and versions on all machines, and set engine.dtype"
            )
        return base

    def _localise(self, job: SourceJob, files: Mapping[str, tuple[bytes, bytes]], folder: Path) -> SourceJob | None:
        """Return a job whose adapter is on this machine; None, told of as failed, if it is not what was checked."""
        if job.adapter is None:
            return job
        adapter = _place(job.adapter, files, folder)
        paths = [adapter.path / name for name in _FILES]
        if not all(path.is_file() for path in paths) or hash_files(paths) != adapter.content_hash:
            reason = f"{self._name} does not find the checked adapter at {str(adapter.path)!r}; share that folder"
            self._send(Failed(source_failure(job.origin, reason)))
            return None
        return replace(job, adapter=adapter)


def _place(adapter: Adapter, files: Mapping[str, tuple[bytes, bytes]], folder: Path) -> Adapter:
    """Write an adapter that was sent to a folder of this machine."""
    if adapter.content_hash not in files:
        return adapter
    own = folder / adapter.content_hash
    own.mkdir(exist_ok=True)
    for name, content in zip(_FILES, files[adapter.content_hash], strict=True):
        (own / name).write_bytes(content)
    return replace(adapter, path=own)


@dataclass(frozen=True, slots=True)
class _Outbox:
    """Sends parts to the driver in place of storing them."""

    folder: Path
    send: Send

    def write(
        self, origin: Origin, key_parts: Mapping[str, Any], cells: Sequence[CellRecord], rows: pl.DataFrame
    ) -> None:
        """Send one part."""
        self.send(SentPart(origin, key_parts, tuple(cells), rows))
