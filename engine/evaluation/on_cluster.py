"""Scoring by the workers of a cluster: the unit that is sent, the runner that scores it, and the part that comes back.

Workers that see the run folder write parts into it themselves; the others send them. ``engine.cluster.units`` says
what a job, a unit, a worker and the driver are.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from transfergrid.config.file import absolute_models
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.cluster.host import ModelRefusedError, Send
from transfergrid.engine.cluster.units import Unit, Workload
from transfergrid.engine.evaluation.events import (
    CellFinished,
    Event,
    Failed,
    ModelOpened,
    Notice,
    OnEvent,
    SourceFinished,
    SourceStarted,
)
from transfergrid.engine.evaluation.score_model import ModelScorer, Remaining, open_model, score_model, source_failure
from transfergrid.engine.interfaces import Adapter, ScorerMaker
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.work.base_model import ScoredBase, resolve_base
from transfergrid.engine.work.cells import CellItems
from transfergrid.engine.work.left import find_left
from transfergrid.engine.work.source_jobs import SourceJob, Values
from transfergrid.grid import Cell, UserError
from transfergrid.store.adaptive import Design
from transfergrid.store.files import hash_files
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
    """What every worker gets when it starts."""

    config: GridConfig
    maker: ScorerMaker
    bases: Mapping[str, ScoredBase]
    max_ranks: Mapping[str, int]
    targets: Mapping[Cell, CellItems]
    scores: Path
    design: Design | None
    base_values: Mapping[str, Values]


def scoring_workload(remaining: Remaining) -> Workload[SourceJob]:
    """Return what is left to score as an executor takes it."""
    base_values = {name: model.base_values for name, model in remaining.models.items()}
    intake = _Intake(remaining.store, remaining.tell, remaining.targets, remaining.design, base_values)
    bases = {name: model.jobs.base for name, model in remaining.models.items()}
    size = cache(lambda name: read_model_facts(bases[name].folder).n_layer_parameters)
    setup = ScoringSetup(
        config=absolute_models(remaining.config),
        maker=remaining.maker,
        bases=bases,
        max_ranks={name: model.max_rank for name, model in remaining.models.items()},
        targets=remaining.targets,
        scores=remaining.store.folder.resolve(),
        design=remaining.design,
        base_values=base_values,
    )
    return Workload(
        root=remaining.run.root,
        jobs={
            name: model.jobs.jobs for name, model in remaining.models.items() if model.jobs.jobs or model.noise_floor
        },
        do=partial(score_model, remaining),
        seed=lambda job: job.origin.seed,
        cost=lambda job: float(size(job.origin.model) * len(job.targets)),
        make_runner=partial(ScoringRunner, setup),
        pack=pack_unit,
        take_in=intake.take_in,
        left=intake.left,
        give_up=lambda job, reason: remaining.tell(Failed(source_failure(job.origin, reason))),
        note=lambda message: remaining.tell(Notice(message)),
    )


@dataclass(slots=True)
class _Intake:
    """Takes in what workers send."""

    store: ScoreStore
    tell: OnEvent
    targets: Mapping[Cell, CellItems] = field(default_factory=dict)
    design: Design | None = None
    base_values: Mapping[str, Values] = field(default_factory=dict)
    _told: set[Any] = field(default_factory=set)
    _failed: set[tuple[str, int | None, str | None, str | None]] = field(default_factory=set)
    """Model, seed, source and target of what failed; target None: all of the source's."""

    def take_in(self, message: Any) -> None:
        match message:
            case SentPart():
                self.store.write(*message)
            case CellFinished():
                self._tell_once((message.origin, message.record.target, message.record.start), message)
            case SourceFinished() | SourceStarted():
                self._tell_once((type(message), message.origin), message)
            case Failed(failure):
                self._failed.add((failure.model, failure.seed, failure.source, failure.target))
                self.tell(message)
            case _:
                self.tell(message)

    def _tell_once(self, key: Any, event: Event) -> None:
        """Pass an event on unless it came before: what a dead worker had not stored is scored again."""
        if key not in self._told:
            self._told.add(key)
            self.tell(event)

    def left(self, unit: Unit[SourceJob]) -> Sequence[SourceJob]:
        """Return what of a unit is neither stored nor failed; what failed is not tried again in this sweep."""
        stored = self.store.scan(repair=False).cells()
        base = self.base_values.get(unit.model, {})

        def is_failed(origin: Origin, target: Cell) -> bool:
            source = (origin.model, origin.seed, origin.source.name)
            return bool({(*source, target.name), (*source, None)} & self._failed)

        untried = (
            replace(job, targets=tuple(t for t in job.targets if not is_failed(job.origin, t))) for job in unit.jobs
        )
        return find_left(untried, stored, self.targets, design=self.design, base=base)


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
    """Scores units in a worker; holds one model."""

    def __init__(self, setup: ScoringSetup, name: str) -> None:
        self._setup = setup
        self._name = name
        self._model: ModelScorer | None = None
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

    def _hold(self, name: str) -> ModelScorer:
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
            self._model.design, self._model.base_values = setup.design, dict(setup.base_values[name])
        except UserError as error:
            raise ModelRefusedError(str(error)) from error
        return self._model

    def _local_base(self, wanted: ScoredBase) -> ScoredBase:
        """Find the base on this machine and check that it gives the numbers that the driver expects."""
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
        """Return a job whose adapter is on this machine; report it and return None if its content is another."""
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
