"""What is to be scored: sources and their remaining targets, each with the key that decides its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfergrid.config.selection import Selection
from transfergrid.engine.adapters.places import AdapterPlace
from transfergrid.engine.interfaces import Adapter, AdapterError, Backend
from transfergrid.engine.work.base_model import BaseModel, require_base
from transfergrid.engine.work.failures import Failure
from transfergrid.grid import BASE, Cell, UserError
from transfergrid.store.key import RunKey
from transfergrid.store.score_store import FinishedCell, Origin


@dataclass(frozen=True, slots=True)
class SourceJob:
    """One source and the targets it is to be scored on."""

    origin: Origin
    adapter: Adapter | None
    key: RunKey
    targets: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class ModelJobs:
    """All sources of one base model, the base first."""

    base: BaseModel
    jobs: tuple[SourceJob, ...]

    @property
    def max_rank(self) -> int:
        """Largest rank of the adapters; 0 without any."""
        return max((job.adapter.rank for job in self.jobs if job.adapter is not None), default=0)

    def without(self, finished: Mapping[tuple[Origin, Cell], FinishedCell]) -> ModelJobs:
        """Return what is left to do; sources without remaining targets are left out."""
        remaining = (
            SourceJob(
                job.origin, job.adapter, job.key, tuple(t for t in job.targets if (job.origin, t) not in finished)
            )
            for job in self.jobs
        )
        return ModelJobs(self.base, tuple(job for job in remaining if job.targets))


def find_jobs(
    base: BaseModel, places: Sequence[AdapterPlace], selection: Selection, backend: Backend
) -> tuple[ModelJobs, tuple[Failure, ...]]:
    """Check the adapters of one model.

    Returns:
        The usable sources with all targets of the selection, and the adapters that cannot be used.
    """
    failures: list[Failure] = []
    jobs = []
    if selection.has_base:
        jobs.append(SourceJob(Origin(base.name, BASE), None, base.key(None), selection.targets))
    for place in places:
        if place.model != base.name:
            continue
        name = place.source.name
        try:
            if not place.path.is_dir():
                raise AdapterError(
                    f"no adapter of that name in {str(place.path.parent)!r}; 'grid train-adapters' trains it"
                )
            require_base(place.path, base, name=f"{name}-s{place.seed}")
            adapter = backend.check_adapter(place.path, base.folder, name=f"{name}-s{place.seed}")
        except UserError as error:
            failures.append(Failure(model=base.name, seed=place.seed, source=name, reason=str(error)))
        else:
            origin = Origin(base.name, place.source)
            jobs.append(SourceJob(origin, adapter, base.key(adapter), selection.targets))
    return ModelJobs(base, tuple(jobs)), tuple(failures)
