"""One base model in memory and the loop over its sources."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import NamedTuple

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.events import (
    CellFinished,
    Failed,
    ModelOpened,
    Notice,
    OnEvent,
    SourceFinished,
    SourceStarted,
)
from transfergrid.engine.evaluation.noise_floor import measure_noise_floor
from transfergrid.engine.evaluation.score_cell import CellScorer
from transfergrid.engine.interfaces import AdapterError, EngineLostError, Scorer, ScorerMaker
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.engine.work.base_model import ScoredBase
from transfergrid.engine.work.cells import CellItems, TokenisedCell, tokenise_cells
from transfergrid.engine.work.failures import Failure
from transfergrid.engine.work.source_jobs import ModelJobs, SourceJob, Values
from transfergrid.grid import Cell, UserError
from transfergrid.store.adaptive import Design, Seen, next_stop
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import Origin, ScoreStore
from transfergrid.store.score_writer import StoreWriter

MAX_BROKEN_SOURCES = 3
"""Adapters in a row that fail for an unforeseen reason, before the engine is taken to be broken."""


class RemainingModel(NamedTuple):
    """What is left to score of one model."""

    jobs: ModelJobs
    max_rank: int
    """Largest rank of all its adapters, finished or not, so that the engine's size stays the same."""
    noise_floor: bool
    base_values: Values
    """What the store has of the base, where pairs are stopped by comparing with it."""


class Remaining(NamedTuple):
    """What is left to score, and where it goes."""

    config: GridConfig
    run: RunFolder
    maker: ScorerMaker
    store: ScoreStore
    targets: Mapping[Cell, CellItems]
    models: Mapping[str, RemainingModel]
    tell: OnEvent
    design: Design | None = None
    """None: all items of a cell are scored at once."""


@dataclass(slots=True)
class ModelScorer:
    """Scores the sources of a base model that is in memory, on its targets as it reads them."""

    base: ScoredBase
    tokenised: Mapping[Cell, TokenisedCell]
    scorer: Scorer
    tell: OnEvent
    device: str | None
    """Name of the device, for the record."""
    design: Design | None = None
    base_values: Values = field(default_factory=dict)
    """Of targets whose base was scored; with a design only."""
    _cells: CellScorer = field(init=False)
    _n_broken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Keep the plans of the targets for all sources."""
        self._cells = CellScorer(self.scorer, self.tokenised, self.tell, self.device)

    def score_sources(self, jobs: Sequence[SourceJob], writer: StoreWriter) -> None:
        """Score sources one after another; those that fail are reported, and the others go on.

        Raises:
            EngineLostError: If the engine is gone.
            Exception: What the engine raised, for the base, or after some adapters in a row failed unforeseen.
        """
        for job, following in zip_longest(jobs, jobs[1:]):
            self.tell(SourceStarted(job.origin, len(job.targets)))
            if following is not None and following.adapter is not None:
                self.scorer.prefetch(following.adapter)
            self._score_source(job, writer)
            self.tell(SourceFinished(job.origin))

    def _score_source(self, job: SourceJob, writer: StoreWriter) -> None:
        for target in job.targets:
            try:
                self._score_target(job, target, writer)
            except AdapterError as error:
                self._fail(job.origin, str(error))
                return
            except ScoringError as error:
                self._fail(job.origin, str(error), target)
                continue
            except EngineLostError:
                raise
            except Exception as error:
                self._n_broken += 1
                if job.adapter is None or self._n_broken >= MAX_BROKEN_SOURCES:
                    raise
                self._fail(job.origin, f"{type(error).__name__}: {error}")
                return
        self._n_broken = 0

    def _score_target(self, job: SourceJob, target: Cell, writer: StoreWriter) -> None:
        """Score what is left of a target, slice by slice as far as the design goes."""
        n_all, is_base = len(self.tokenised[target].asked.of_seed(job.origin.seed).items), job.adapter is None
        base = self.base_values.setdefault(target, {})
        seen = Seen().plus(job.values.get(target, {}), base)
        stop = next_stop(seen, n_all, self.design, is_base=is_base)
        while stop is not None:
            scored = self._cells.score(job.origin, job.adapter, job.key, target, extent=(seen.n_items, stop))
            if is_base:
                base.update(scored.values)
            seen = seen.plus(scored.values, base)
            stop = next_stop(seen, n_all, self.design, is_base=is_base)
            n_planned = n_all if self.design is None or is_base else self.design.n_planned(n_all)
            if scored.record.start is not None:
                scored = replace(scored, record=replace(scored.record, n_planned=n_planned))
            writer.submit(scored)
            n_skipped = n_planned - seen.n_items if stop is None else 0
            self.tell(CellFinished(job.origin, scored.record, stop is None, n_skipped))

    def _fail(self, origin: Origin, reason: str, target: Cell | None = None) -> None:
        self.tell(Failed(source_failure(origin, reason, target)))


def open_model(
    base: ScoredBase, targets: Mapping[Cell, CellItems], *, maker: ScorerMaker, max_rank: int, tell: OnEvent
) -> ModelScorer:
    """Load a base model.

    ``targets`` and ``max_rank`` are those of the whole request, finished or not, so that the engine's size stays the
    same.
    """
    started = time.perf_counter()
    tokenised = tokenise_cells(targets.values(), load_tokenizer(base.folder), base.tokenisation)
    longest = max(target.longest_tokens for target in tokenised.values())
    scorer = maker.open(base.folder, longest_tokens=longest, max_rank=max_rank)
    tell(ModelOpened(base.name, time.perf_counter() - started))
    return ModelScorer(base, tokenised, scorer, tell, maker.device_name())


def score_model(remaining: Remaining, name: str, jobs: Sequence[SourceJob]) -> None:
    """Score sources of one model in this process; if it cannot be loaded, note it where other models are left.

    Raises:
        Exception: What the engine raised while it loaded the only model, or once it is taken to be broken.
    """
    model, tell = remaining.models[name], remaining.tell
    base = model.jobs.base
    try:
        opened = open_model(base, remaining.targets, maker=remaining.maker, max_rank=model.max_rank, tell=tell)
        opened.design, opened.base_values = remaining.design, model.base_values
    except UserError as error:
        tell(Failed(Failure(model=name, reason=str(error))))
        return
    except Exception as error:
        if len(remaining.models) == 1:
            raise
        tell(Failed(Failure(model=name, reason=f"{type(error).__name__}: {error}")))
        return
    try:
        with StoreWriter(remaining.store) as writer:
            opened.score_sources(jobs, writer)
        if model.noise_floor:
            _measure_noise_floor(opened, remaining)
    finally:
        opened.scorer.close()


def _measure_noise_floor(model: ModelScorer, remaining: Remaining) -> None:
    name, finished = model.base.name, remaining.store.finished()
    remaining.tell(Notice(f"{name}: scoring the base again for the noise floor"))
    try:
        measure_noise_floor(remaining.run, model.base, model.tokenised, model.scorer, finished=finished)
    except (AdapterError, ScoringError) as error:
        remaining.tell(Failed(Failure(model=name, reason=f"noise floor: {error}")))


def source_failure(origin: Origin, reason: str, target: Cell | None = None) -> Failure:
    """Return the failure of a source, on one target or on all."""
    return Failure(
        model=origin.model,
        seed=origin.seed,
        source=origin.source.name,
        target=None if target is None else target.name,
        reason=reason,
    )
