"""The sweep: base and adapters of every model on every target cell that is not in the store yet."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config import GridConfig
from transfergrid.engine.backends import Backend
from transfergrid.engine.cell_scoring import CellScorer
from transfergrid.engine.failures import Failure, FailureLog
from transfergrid.engine.foreign import AdapterPlace, ForeignAdapters, foreign_places, own_places
from transfergrid.engine.jobs import BaseModel, ModelJobs, SourceJob, find_jobs, resolve_base
from transfergrid.engine.models import load_tokenizer
from transfergrid.engine.noise_floor import NULL_RANK, has_noise_floor, measure_noise_floor
from transfergrid.engine.progress import (
    CellFinished,
    Failed,
    ModelOpened,
    Notice,
    OnEvent,
    SourceFinished,
    SourceStarted,
    SweepStarted,
    ignore_events,
)
from transfergrid.engine.protocol import AdapterError, EngineLostError, Scorer, ScoringError
from transfergrid.engine.run_lock import hold_run_folder
from transfergrid.engine.selection import Narrowing, Selection, select
from transfergrid.engine.stale import evict_cells, find_stale_cells, refuse_stale_cells
from transfergrid.engine.store import ASIDE, Origin, Part, ScoreStore, unwritable
from transfergrid.engine.store_writer import StoreWriter
from transfergrid.engine.summary import EvaluationReport, Totals, summarise
from transfergrid.engine.targets import Target, TokenisedTarget, load_target, tokenise_targets
from transfergrid.grid import Cell, RunFolder, UserError

MAX_BROKEN_SOURCES = 3
"""Adapters in a row that fail in a way nobody foresaw, before the engine is taken to be broken."""

MIN_MODEL_LEN = 64
"""Shortest longest sequence an engine is started for, in tokens; its own probe needs some."""

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """What ``grid eval`` is asked for."""

    narrowing: Narrowing = field(default_factory=Narrowing)
    foreign: ForeignAdapters | None = None
    """Adapters from elsewhere in place of the run's own."""
    force: bool = False
    """Score again what is finished."""
    noise_floor: bool = False
    """Score the base a second time, another way round, and count the flips."""


class Work(NamedTuple):
    """What a request comes to."""

    selection: Selection
    models: tuple[ModelJobs, ...]
    """Usable sources with all targets that were asked for."""
    failures: tuple[Failure, ...]
    targets: Mapping[Cell, Target]

    def pairs(self) -> list[tuple[Origin, Cell]]:
        """Return every (source, target) of the usable sources."""
        return [(job.origin, target) for jobs in self.models for job in jobs.jobs for target in job.targets]


def evaluate(
    config: GridConfig, run: RunFolder, request: EvalRequest, *, backend: Backend, on_event: OnEvent = ignore_events
) -> EvaluationReport:
    """Score what is asked for and is not in the store.

    Args:
        config: The configuration.
        run: The run folder; only one process may score into it.
        request: What to score.
        backend: The engine.
        on_event: Told what happens.

    Raises:
        UserError: If the run folder is in use, nothing of the request is in the grid, or finished cells were scored
            with another setup.
    """
    with hold_run_folder(run.root, "grid eval"):
        started = time.perf_counter()
        work = find_work(config, run, request, backend)
        sweep = _Sweep(run, backend, on_event)
        try:
            sweep.begin(work, force=request.force)
            sweep.run(work, noise_floor=request.noise_floor)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise unwritable(run.scores, error) from error
        totals = sweep.totals._replace(wall_s=time.perf_counter() - started)
        return summarise(run, work.selection, work.pairs(), totals)


def find_work(config: GridConfig, run: RunFolder, request: EvalRequest, backend: Backend) -> Work:
    """Find targets, base models and adapters of a request; loads no model.

    Raises:
        UserError: If the data has faults, or a name is not part of the grid.
    """
    selection, places = find_sources(config, run, request)
    ensure_data(config, run.data)
    targets = {cell: load_target(config, run.data, cell) for cell in selection.targets}
    models, failures = [], []
    for model in selection.models:
        try:
            base = resolve_base(config, model, backend)
        except UserError as error:
            failures.append(Failure(model=model.name, reason=str(error)))
            continue
        jobs, faults = find_jobs(base, places, selection, backend)
        models.append(jobs)
        failures += faults
    return Work(selection, tuple(models), tuple(failures), targets)


def find_sources(
    config: GridConfig, run: RunFolder, request: EvalRequest
) -> tuple[Selection, tuple[AdapterPlace, ...]]:
    """Return the selection and where its adapters should be.

    Raises:
        UserError: If a name is not part of the grid, or adapters from elsewhere cannot be told apart.
    """
    narrowing = request.narrowing
    if request.foreign is None:
        selection = select(config, narrowing)
        return selection, own_places(run, selection)
    models = narrowing.models or tuple(model.name for model in config.models)
    places = foreign_places(request.foreign, models)
    cells = tuple(dict.fromkeys(place.cell for place in places))
    seeds = tuple(dict.fromkeys(place.seed for place in places))
    selection = select(config.model_copy(update={"seeds": seeds}), narrowing, foreign_cells=cells)
    kept = (p for p in places if p.cell in selection.source_cells and p.seed in selection.seeds)
    return selection, tuple(kept)


class _Sweep:
    """One run of the sweep: the store, the failures and the loop over models, sources and targets."""

    def __init__(self, run: RunFolder, backend: Backend, on_event: OnEvent) -> None:
        self.totals = Totals()
        self._run = run
        self._backend = backend
        self._way = backend.key_parts()["way"]
        self._tell = on_event
        self._store = ScoreStore(run.scores)
        self._failures = FailureLog(run.scores)
        self._n_broken = 0
        self._has_other_models = False

    def begin(self, work: Work, *, force: bool) -> None:
        """Repair the store, refuse what does not fit into it, and note what cannot be scored."""
        scan = self._store.scan()
        for path, reason in scan.set_aside:
            aside = str(path.parent / ASIDE)
            self._tell(Notice(f"{reason}; it is moved to {aside!r} and its cells are scored again"))
        pairs = frozenset(work.pairs())
        items_hashes = {cell: target.items_hash for cell, target in work.targets.items()}
        refuse_stale_cells(find_stale_cells(scan.parts, work.models, items_hashes), pairs, force=force)
        if n_evicted := evict_cells(self._store, scan.parts, pairs, all_cells=force):
            self._tell(Notice(f"{n_evicted} cell(s) are scored again; their old parts moved to {ASIDE!r}"))
        n_other_way = sum(pair in pairs and _way(cell.part) != self._way for pair, cell in scan.finished().items())
        if n_other_way and not force:
            kept = f"{n_other_way} cell(s) were not scored {self._way} and are kept"
            self._tell(Notice(f"{kept}; --force scores them again"))
        self._failures.drop(work.selection.covers)
        for failure in work.failures:
            self._fail(failure)

    def run(self, work: Work, *, noise_floor: bool) -> None:
        """Score what is left, model after model."""
        finished = self._store.scan().finished()
        remaining = [jobs.without(finished) for jobs in work.models]
        self._has_other_models = len(work.models) > 1
        pairs = work.pairs()
        n_sources = sum(len(jobs.jobs) for jobs in work.models)
        self._tell(
            SweepStarted(
                n_sources=n_sources,
                n_sources_finished=n_sources - sum(len(jobs.jobs) for jobs in remaining),
                n_cells=len(pairs),
                n_finished=sum(pair in finished for pair in pairs),
                n_items=sum(len(work.targets[t].items) for jobs in remaining for job in jobs.jobs for t in job.targets),
            )
        )
        ranks = {jobs.base.name: jobs.max_rank for jobs in work.models}
        for jobs in remaining:
            wants_noise_floor = noise_floor and not has_noise_floor(self._run, jobs.base, work.targets.values())
            if jobs.jobs or wants_noise_floor:
                rank = max(NULL_RANK, ranks[jobs.base.name])
                self._run_model(jobs, work.targets, max_rank=rank, noise_floor=wants_noise_floor)

    def _run_model(self, jobs: ModelJobs, targets: Mapping[Cell, Target], *, max_rank: int, noise_floor: bool) -> None:
        """Score one model's sources; a model that cannot be loaded is noted where there are others to go on with.

        Raises:
            Exception: What the engine raised while it loaded the only model.
        """
        base = jobs.base
        try:
            tokenised, scorer = self._open(base, targets, max_rank)
        except UserError as error:
            self._fail(Failure(model=base.name, reason=str(error)))
            return
        except Exception as error:
            if not self._has_other_models:
                raise
            self._fail(Failure(model=base.name, reason=f"{type(error).__name__}: {error}"))
            return
        try:
            with StoreWriter(self._store) as writer:
                self._score_sources(jobs.jobs, CellScorer(scorer, tokenised, self._tell), scorer, writer)
            if noise_floor:
                self._measure_noise_floor(base, tokenised, scorer)
        finally:
            scorer.close()

    def _measure_noise_floor(self, base: BaseModel, targets: Mapping[Cell, TokenisedTarget], scorer: Scorer) -> None:
        self._tell(Notice(f"{base.name}: scoring the base again for the noise floor"))
        try:
            measure_noise_floor(self._run, base, targets, scorer)
        except (AdapterError, ScoringError) as error:
            self._fail(Failure(model=base.name, reason=f"noise floor: {error}"))

    def _open(
        self, base: BaseModel, targets: Mapping[Cell, Target], max_rank: int
    ) -> tuple[Mapping[Cell, TokenisedTarget], Scorer]:
        """Tokenise all targets of the request, finished or not, so that the engine's size stays the same."""
        started = time.perf_counter()
        tokenised = tokenise_targets(targets.values(), load_tokenizer(base.folder), base.tokenisation)
        scorer = self._backend.open(
            base.folder,
            longest_tokens=max(MIN_MODEL_LEN, *(target.longest_tokens for target in tokenised.values())),
            max_rank=max_rank,
        )
        self._tell(ModelOpened(base.name, time.perf_counter() - started))
        return tokenised, scorer

    def _score_sources(self, jobs: Sequence[SourceJob], cells: CellScorer, scorer: Scorer, writer: StoreWriter) -> None:
        for job, following in zip_longest(jobs, jobs[1:]):
            self._tell(SourceStarted(job.origin, len(job.targets)))
            if following is not None and following.adapter is not None:
                scorer.prefetch(following.adapter)
            self._score_source(job, cells, writer)
            self._tell(SourceFinished(job.origin))

    def _score_source(self, job: SourceJob, cells: CellScorer, writer: StoreWriter) -> None:
        """Score one source on its targets; what fails is noted, and the sweep goes on.

        Raises:
            EngineLostError: If the engine is gone.
            Exception: What the engine raised, for the base, or after some adapters in a row failed unforeseen.
        """
        for target in job.targets:
            try:
                scored = cells.score(job.origin, job.adapter, job.key, target)
            except AdapterError as error:
                self._fail(_failure(job.origin, str(error)))
                return
            except ScoringError as error:
                self._fail(_failure(job.origin, str(error), target))
                continue
            except EngineLostError:
                raise
            except Exception as error:
                self._n_broken += 1
                if job.adapter is None or self._n_broken >= MAX_BROKEN_SOURCES:
                    raise
                self._fail(_failure(job.origin, f"{type(error).__name__}: {error}"))
                return
            writer.submit(scored)
            self.totals = self.totals.plus(scored.record)
            self._tell(CellFinished(job.origin, scored.record))
        self._n_broken = 0

    def _fail(self, failure: Failure) -> None:
        self._failures.add(failure)
        self._tell(Failed(failure))


def _way(part: Part) -> str | None:
    engine = part.key_parts.get("engine", {})
    return engine.get("way") if isinstance(engine, Mapping) else None


def _failure(origin: Origin, reason: str, target: Cell | None = None) -> Failure:
    return Failure(
        model=origin.model,
        seed=origin.seed,
        source=origin.source.name,
        target=None if target is None else target.name,
        reason=reason,
    )
