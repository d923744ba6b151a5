"""Finished cells whose key is not today's: found before anything is scored, never mixed with new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from transfergrid.engine.work.cells import CellItems
from transfergrid.engine.work.source_jobs import ModelJobs
from transfergrid.grid import Cell, UserError
from transfergrid.store.key import changed_parts
from transfergrid.store.score_store import CellRecord, Origin, Part, ScoreStore

_SHOWN_CHANGES = 4


@dataclass(frozen=True, slots=True)
class StaleCell:
    """A finished cell that was scored with another setup."""

    part: Part
    target: str
    changes: tuple[str, ...]


def find_stale_cells(
    parts: Iterable[Part], models: Sequence[ModelJobs], targets: Mapping[Cell, CellItems]
) -> list[StaleCell]:
    """Compare the store's cells of some models with what would decide their numbers today.

    Args:
        parts: All parts of the store.
        models: Their sources; other sources of these models are compared in all but the adapter.
        targets: As they are asked today; other targets, and seeds without items, are compared in all but the items.
    """
    shared = {jobs.base.name: jobs.base.shared_parts for jobs in models}
    keys = {job.origin: job.key.parts for jobs in models for job in jobs.jobs}
    stale = []
    for part in parts:
        if part.origin.model not in shared:
            continue
        wanted = keys.get(part.origin, {**shared[part.origin.model], "adapter": part.key_parts.get("adapter")})
        changes = changed_parts(part.key_parts, wanted)
        found = ((r.target, (*changes, *_changed_items(part.origin.seed, r, targets))) for r in part.cells)
        stale += [StaleCell(part, target, all_changes) for target, all_changes in found if all_changes]
    return stale


def _changed_items(seed: int | None, record: CellRecord, targets: Mapping[Cell, CellItems]) -> Iterator[str]:
    target = targets.get(Cell.parse(record.target))
    if target is None or (target.draws and seed is not None and seed not in target.draws):
        return
    today = target.of_seed(seed).items_hash
    if today != record.items_hash:
        yield f"items of {record.target}: {record.items_hash[:12]} -> {today[:12]}"


def refuse_stale_cells(stale: Sequence[StaleCell], asked: Iterable[tuple[Origin, Cell]], *, force: bool) -> None:
    """Refuse to score beside cells of another setup.

    Raises:
        UserError: If there are any, unless all of them are asked for with ``force``; names what changed.
    """
    asked_names = {(origin, target.name) for origin, target in asked}
    outside = [cell for cell in stale if (cell.part.origin, cell.target) not in asked_names]
    faulty = outside if force else stale
    if not faulty:
        return
    changes = list(dict.fromkeys(change for cell in faulty for change in cell.changes))
    more = f" and {len(changes) - _SHOWN_CHANGES} more" if len(changes) > _SHOWN_CHANGES else ""
    way_out = (
        "some of them were not asked for, so --force leaves them; drop the narrowing options or use another --run"
        if outside
        else "give --force to score them again (their parts move to scores/aside), or use another --run"
    )
    raise UserError(
        f"{len(faulty)} finished cell(s), for example {faulty[0].part.origin.name} on {faulty[0].target}, were scored "
        f"with another setup and are not mixed with new ones: {'; '.join(changes[:_SHOWN_CHANGES])}{more}; {way_out}"
    )


def evict_cells(
    store: ScoreStore, parts: Iterable[Part], asked: Iterable[tuple[Origin, Cell]], *, all_cells: bool
) -> int:
    """Move cells that are scored again aside.

    Without ``all_cells`` only those with items that another attempt could score.

    Returns:
        Number of cells that were moved.
    """
    asked_names = {(origin, target.name) for origin, target in asked}
    parts = tuple(parts)
    again = {(part.origin, cell.target) for part in parts for cell in part.cells if all_cells or cell.n_to_retry}
    n_evicted = 0
    for part in parts:
        pairs = {(part.origin, cell.target) for cell in part.cells} & again & asked_names
        if targets := {target for _, target in pairs}:
            store.evict(part, targets)
            n_evicted += len(targets)
    return n_evicted
