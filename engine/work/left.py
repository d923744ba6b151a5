"""What is left to score of some jobs, given what the store has, all items or by slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from transfergrid.engine.work.cells import CellItems
from transfergrid.engine.work.source_jobs import SourceJob, Values
from transfergrid.grid import BASE, Cell
from transfergrid.store.adaptive import Design, Seen, next_stop
from transfergrid.store.score_store import Origin, StoredCell
from transfergrid.store.scores import scan_scores

Stored = Mapping[tuple[Origin, Cell], StoredCell]


def read_values(origin: Origin, stored: Stored, targets: Iterable[Cell]) -> Values:
    """Return the values that the store has of a source on some targets."""
    cells = {target: stored[origin, target] for target in targets if (origin, target) in stored}
    found: Values = {target: {} for target in cells}
    paths: set[Path] = {part.path for cell in cells.values() for part, _ in cell.slices}
    rows = scan_scores(sorted(paths)).select("target_task", "target_language", "item_id", "value").collect()
    for task, language, item_id, value in rows.iter_rows():
        if (target := Cell(task, language)) in found:
            found[target][item_id] = value
    return found


def find_left(
    jobs: Iterable[SourceJob],
    stored: Stored,
    items: Mapping[Cell, CellItems],
    *,
    design: Design | None,
    base: Values | None = None,
) -> list[SourceJob]:
    """Return what is left to do; sources without remaining targets are left out."""
    left = []
    for job in jobs:
        n_items = {
            target: len(items[target].of_seed(job.origin.seed).items) for target in job.targets if target in items
        }
        there = [target for target in job.targets if (job.origin, target) in stored]
        partly = [target for target in there if stored[job.origin, target].n_items < n_items[target]]
        values = read_values(job.origin, stored, partly) if partly else {}
        done = set(there) - set(partly)
        for target in partly:
            seen = Seen().plus(values[target], (base or {}).get(target, {}))
            if next_stop(seen, n_items[target], design, is_base=job.origin.source == BASE) is None:
                done.add(target)
        if targets := tuple(target for target in job.targets if target not in done):
            left.append(replace(job, targets=targets, values={t: values[t] for t in targets if t in values}))
    return left


def pairs_of(jobs: Iterable[SourceJob]) -> set[tuple[Origin, Cell]]:
    """Return the (source, target) pairs of some jobs."""
    return {(job.origin, target) for job in jobs for target in job.targets}
