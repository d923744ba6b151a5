"""The sweep: base and adapters of every model on every target cell that is not in the store yet."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.null import NULL_RANK
from transfergrid.engine.cluster.driver import Executor, do_here, do_on_cluster
from transfergrid.engine.cluster.ray_cluster import ClusterOptions, connect
from transfergrid.engine.evaluation.events import (
    CellFinished,
    Event,
    Failed,
    Notice,
    OnEvent,
    SweepStarted,
    ignore_events,
)
from transfergrid.engine.evaluation.modes import get_mode
from transfergrid.engine.evaluation.noise_floor import drop_stale_noise_floor, has_noise_floor
from transfergrid.engine.evaluation.on_cluster import scoring_workload
from transfergrid.engine.evaluation.score_model import Remaining, RemainingModel
from transfergrid.engine.evaluation.summary import EvaluationReport, Totals, summarise
from transfergrid.engine.interfaces import ScorerMaker
from transfergrid.engine.work.base_model import resolve_base
from transfergrid.engine.work.cells import CellItems, load_cell
from transfergrid.engine.work.failures import Failure, FailureLog, is_about
from transfergrid.engine.work.left import find_left, pairs_of, read_values
from transfergrid.engine.work.request import EvalRequest, find_sources
from transfergrid.engine.work.source_jobs import ModelJobs, SourceJob, Values, find_jobs
from transfergrid.engine.work.stale_cells import evict_cells, find_stale_cells, refuse_stale_cells
from transfergrid.grid import BASE, Cell, UserError
from transfergrid.store.adaptive import FIRST_LOOK, Design
from transfergrid.store.file_index import FileIndex
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder
from transfergrid.store.score_store import ASIDE, Origin, Part, ScoreStore, unwritable
from transfergrid.wording import listed

SHOWN_TARGETS = 3
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class SweepJobs(NamedTuple):
    """All jobs of a request, and what it cannot score."""

    selection: Selection
    models: tuple[ModelJobs, ...]
    """Usable sources with all targets that were asked for."""
    failures: tuple[Failure, ...]
    targets: Mapping[Cell, CellItems]

    def pairs(self) -> list[tuple[Origin, Cell]]:
        """Return every (source, target) of the usable sources."""
        return [(job.origin, target) for jobs in self.models for job in jobs.jobs for target in job.targets]


def evaluate(
    config: GridConfig,
    run: RunFolder,
    request: EvalRequest,
    *,
    maker: ScorerMaker,
    on_event: OnEvent = ignore_events,
    execute: Executor = do_here,
) -> EvaluationReport:
    """Score what is asked for and is not in the store.

    Raises:
        UserError: If the run folder is in use, nothing of the request is in the grid, or finished cells were scored
            with another setup.
    """
    with hold_run_folder(run.root, "grid eval"):
        started = time.perf_counter()
        sweep = _Sweep(run, maker, on_event)
        asked = find_sweep_jobs(config, run, request, maker, index=sweep.store.index)
        try:
            sweep.begin(asked, force=request.force)
            sweep.store.index.save()
            for left in sweep.rounds(asked, request, is_one_process=execute is do_here):
                remaining = Remaining(config, run, maker, sweep.store, asked.targets, left, sweep.tell, request.design)
                execute(scoring_workload(remaining))
                if execute is not do_here:
                    sweep.store.scan()  # workers store parts; one taken for dead may have scored a cell twice
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise unwritable(run.scores, error) from error
        totals = sweep.totals._replace(wall_s=time.perf_counter() - started)
        undone = pairs_of(job for _, jobs in sweep.find_left(asked, request.design) for job in jobs)
        pairs = {pair: pair not in undone for pair in asked.pairs()}
        return summarise(run, asked.selection, pairs, totals, sweep.store.parts)


def evaluate_on_cluster(
    config: GridConfig,
    run: RunFolder,
    request: EvalRequest,
    options: ClusterOptions,
    *,
    maker: ScorerMaker,
    on_event: OnEvent = ignore_events,
) -> EvaluationReport:
    """Score what is asked for and is not in the store on a Ray cluster; see ``evaluate``.

    Raises:
        UserError: As ``evaluate``, and if there is no cluster that could do it.
    """
    if request.noise_floor:
        raise UserError(
            "--noise-floor is measured by one process; score with --ray, then give 'grid eval --noise-floor --source "
            "base' without --ray"
        )
    wide = replace(options, gpus_per_worker=config.engine.tensor_parallel_size)
    with connect(wide) as cluster:
        execute = partial(do_on_cluster, cluster)
        return evaluate(config, run, request, maker=maker, on_event=on_event, execute=execute)


def find_sweep_jobs(
    config: GridConfig, run: RunFolder, request: EvalRequest, maker: ScorerMaker, *, index: FileIndex
) -> SweepJobs:
    """Find targets, base models and adapters of a request; loads no model.

    Raises:
        UserError: If the data has faults, or a name is not part of the grid.
    """
    selection, places = find_sources(config, run, request)
    ensure_data(config, run.data)
    targets = {cell: load_cell(config, run.data, cell) for cell in selection.targets}
    for target in targets.values():
        get_mode(target.mode)
    models, failures = [], []
    for model in selection.models:
        try:
            base = resolve_base(config, model, maker, index)
        except UserError as error:
            failures.append(Failure(model=model.name, reason=str(error)))
            continue
        jobs, faults = find_jobs(base, places, selection, maker, index=index)
        models.append(jobs)
        failures += faults
    return SweepJobs(selection, tuple(models), tuple(failures), targets)


class _Sweep:
    """One run of the sweep: the store, the failures and the totals."""

    def __init__(self, run: RunFolder, maker: ScorerMaker, on_event: OnEvent) -> None:
        self.totals = Totals()
        self.store = ScoreStore(run.scores)
        self._run = run
        self._way = maker.key_parts()["way"]
        self._on_event = on_event
        self._failures = FailureLog(run.scores)

    def tell(self, event: Event) -> None:
        """Keep count of an event and pass it on."""
        if isinstance(event, CellFinished):
            self.totals = self.totals.plus(event.record, is_last=event.is_last)
        elif isinstance(event, Failed):
            self._failures.add(event.failure)
        self._on_event(event)

    def begin(self, asked: SweepJobs, *, force: bool) -> None:
        """Repair the store, refuse what does not fit into it, and note what cannot be scored."""
        scan = self.store.scan()
        for path, reason in scan.set_aside:
            aside = str(path.parent / ASIDE)
            self.tell(Notice(f"{reason}; it is moved to {aside!r} and its cells are scored again"))
        pairs = frozenset(asked.pairs())
        refuse_stale_cells(find_stale_cells(scan.parts, asked.models, asked.targets), pairs, force=force)
        if n_evicted := evict_cells(self.store, scan.parts, pairs, all_cells=force):
            self.tell(Notice(f"{n_evicted} cell(s) are scored again; their old parts moved to {ASIDE!r}"))
        n_other_way = sum(pair in pairs and _way(cell.part) != self._way for pair, cell in self.store.cells().items())
        if n_other_way and not force:
            kept = f"{n_other_way} cell(s) were scored in another way than {self._way!r} and are kept"
            self.tell(Notice(f"{kept}; --force scores them again"))
        self._failures.drop(partial(is_about, asked.selection))
        for failure in asked.failures:
            self.tell(Failed(failure))

    def rounds(
        self, asked: SweepJobs, request: EvalRequest, *, is_one_process: bool
    ) -> Iterator[dict[str, RemainingModel]]:
        """Yield what is left to score; the base in a round of its own where other processes compare pairs with it."""
        self._drop_stale_noise_floors(asked)
        if request.design is not None:
            self._require_base(asked)
            if all(request.design.n_planned(len(cell.items)) <= FIRST_LOOK for cell in asked.targets.values()):
                self.tell(Notice(f"--adaptive stops no pair here: no target has more than {FIRST_LOOK} items to score"))
            base = {name: _only_base(model) for name, model in self._left(asked, request).items()}
            if not is_one_process and any(model.jobs.jobs for model in base.values()):
                yield base
        yield self._left(asked, request)

    def _require_base(self, asked: SweepJobs) -> None:
        """Refuse to stop pairs that cannot be compared with the base."""
        stored = self.store.cells()
        for jobs in asked.models:
            missing = [t.name for t in asked.targets if (Origin(jobs.base.name, BASE), t) not in stored]
            if missing and not asked.selection.has_base:
                raise UserError(
                    f"--adaptive compares adapters with the base, and {jobs.base.name!r} has no scores on "
                    f"{listed(missing, SHOWN_TARGETS)}; name --source base too"
                )

    def find_left(self, asked: SweepJobs, design: Design | None) -> list[tuple[Values, list[SourceJob]]]:
        """Return by model what is stored of the base, with a design only, and what is left to score."""
        stored, found = self.store.cells(), []
        for jobs in asked.models:
            base = {} if design is None else read_values(Origin(jobs.base.name, BASE), stored, asked.targets)
            found.append((base, find_left(jobs.jobs, stored, asked.targets, design=design, base=base)))
        return found

    def _left(self, asked: SweepJobs, request: EvalRequest) -> dict[str, RemainingModel]:
        """Return what is left to score, and report its size."""
        found, design = self.find_left(asked, request.design), request.design
        left = [job for _, jobs in found for job in jobs]
        pairs, n_sources = asked.pairs(), sum(len(jobs.jobs) for jobs in asked.models)

        def n_left(job: SourceJob, target: Cell) -> int:
            n_all = len(asked.targets[target].of_seed(job.origin.seed).items)
            is_all = design is None or job.adapter is None
            return (n_all if is_all else design.n_planned(n_all)) - len(job.values.get(target, ()))  # type: ignore[union-attr]

        self.tell(
            SweepStarted(
                n_sources=n_sources,
                n_sources_finished=n_sources - len(left),
                n_cells=len(pairs),
                n_finished=len(pairs) - sum(len(job.targets) for job in left),
                n_items=sum(n_left(job, target) for job in left for target in job.targets),
            )
        )
        return {
            every.base.name: RemainingModel(
                ModelJobs(every.base, tuple(jobs)),
                max(NULL_RANK, every.max_rank),
                self._wants_noise_floor(every, asked, request),
                base,
            )
            for every, (base, jobs) in zip(asked.models, found, strict=True)
        }

    def _drop_stale_noise_floors(self, asked: SweepJobs) -> None:
        """Keep the analysis from reading flips of another setup beside the scores of this one."""
        finished = self.store.cells()
        for jobs in asked.models:
            name = jobs.base.name
            if n_dropped := drop_stale_noise_floor(self._run, jobs.base, asked.targets.values(), finished):
                what = (
                    f"{name}: the noise floor of {n_dropped} target(s) was measured with another setup and is dropped"
                )
                self.tell(Notice(f"{what}; --noise-floor measures it again"))

    def _wants_noise_floor(self, jobs: ModelJobs, asked: SweepJobs, request: EvalRequest) -> bool:
        return request.noise_floor and not has_noise_floor(self._run, jobs.base, asked.targets.values())


def _only_base(model: RemainingModel) -> RemainingModel:
    jobs = tuple(job for job in model.jobs.jobs if job.adapter is None)
    return model._replace(jobs=ModelJobs(model.jobs.base, jobs), noise_floor=False)


def _way(part: Part) -> str | None:
    engine = part.key_parts.get("engine", {})
    return engine.get("way") if isinstance(engine, Mapping) else None
