"""What is to be scored: sources and their remaining targets, each with the key that decides its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from transfergrid.config.selection import Selection
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.adapters.places import AdapterPlace
from transfergrid.engine.interfaces import Adapter, AdapterError, ScorerMaker
from transfergrid.engine.work.base_model import ScoredBase, require_base
from transfergrid.engine.work.failures import Failure
from transfergrid.grid import BASE, Cell, UserError
from transfergrid.store.file_index import FileIndex
from transfergrid.store.files import hash_files, hash_json
from transfergrid.store.key import RunKey
from transfergrid.store.score_store import Origin

_ENGINE = Path(__file__).resolve().parents[1]

Values = dict[Cell, dict[str, float | None]]
"""Value of every item by target; None: not scored."""


@dataclass(frozen=True, slots=True)
class SourceJob:
    """One source and the targets it is to be scored on."""

    origin: Origin
    adapter: Adapter | None
    key: RunKey
    targets: tuple[Cell, ...]
    values: Values = field(default_factory=dict)
    """What the store has of targets of which some items are left."""


@dataclass(frozen=True, slots=True)
class ModelJobs:
    """All sources of one base model, the base first."""

    base: ScoredBase
    jobs: tuple[SourceJob, ...]

    @property
    def max_rank(self) -> int:
        """Largest rank of the adapters; 0 without any."""
        return max((job.adapter.rank for job in self.jobs if job.adapter is not None), default=0)


def find_jobs(
    base: ScoredBase,
    places: Sequence[AdapterPlace],
    selection: Selection,
    maker: ScorerMaker,
    *,
    index: FileIndex,
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
            adapter = _check(place, base, maker, index)
        except (UserError, OSError) as error:  # a name too long, a folder that may not be entered
            failures.append(Failure(model=base.name, seed=place.seed, source=name, reason=str(error)))
        else:
            origin = Origin(base.name, place.source)
            jobs.append(SourceJob(origin, adapter, base.key(adapter), selection.targets))
    return ModelJobs(base, tuple(jobs)), tuple(failures)


def _check(place: AdapterPlace, base: ScoredBase, maker: ScorerMaker, index: FileIndex) -> Adapter:
    """Check an adapter, or take what an earlier check of the same files by the same code found."""
    name = f"{place.source.name}-s{place.seed}"

    def check() -> dict[str, Any]:
        fields = asdict(maker.check_adapter(place.path, base.folder, name=name))
        del fields["path"]
        return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in fields.items()}

    about = hash_json([name, _checking_code(), base.shared_parts])
    files = [place.path / CONFIG_FILE, place.path / WEIGHTS_FILE]
    known = index.look_up(place.path, files, check, about=about)
    fields: dict[str, Any] = {
        key: frozenset(value) if isinstance(value, list) else value for key, value in known.items()
    }
    return Adapter(path=place.path, **fields)


@cache
def _checking_code() -> str:
    """Return a hash of the code that checks adapters: what another version found is not taken over."""
    return hash_files(path for room in ("adapters", "scorers") for path in sorted((_ENGINE / room).glob("*.py")))
