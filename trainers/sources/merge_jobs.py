"""The merges of a sweep: which there are, whether their parts are there, and making them one after another."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig
from transfergrid.config.sources import Merge, Recipe
from transfergrid.engine.interfaces import AdapterError
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.json_text import read_json
from transfergrid.trainers.adapter_folder import failure_file, is_finished, mark_failed, save_adapter, unfinished_folder
from transfergrid.trainers.events import AdapterFailed, AdapterMerged, TrainingEvents
from transfergrid.trainers.jobs import AdapterJob, ResolvedModel, TrainingJob, find_model
from transfergrid.trainers.record import make_record, read_record
from transfergrid.trainers.sources.merging import merge_adapters, saved_keys


@dataclass(frozen=True, slots=True)
class Parent:
    """One of the adapters that are merged."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class MergeJob(AdapterJob):
    """One adapter to make of others."""

    merge: Merge
    parents: tuple[Parent, ...]

    @property
    def is_ready(self) -> bool:
        """Whether all adapters that it is made of are there."""
        return all(parent.folder.exists() for parent in self.parents)

    def key_parts(self, config: GridConfig) -> dict[str, Any]:
        """Return what decides the adapter's weights, as JSON; the parents' count by their content.

        Raises:
            AdapterError: If a parent is missing, broken, or of another base.
        """
        merge = self.merge
        return {
            "base_revision": self.model.revision,
            "seed": self.seed,
            "merge": {"method": merge.method, "weights": list(merge.weights), "density": merge.density},
            "of": {parent.name: self.content_hash(parent) for parent in self.parents},
        }

    def content_hash(self, parent: Parent) -> str:
        """Return the content hash of an adapter that it is made of.

        Raises:
            AdapterError: If it is missing, broken, or of another base.
        """
        record = read_record(parent.folder)
        if record is None:
            raise AdapterError(f"its part {parent.name!r} is not there{_why(parent.folder)}; train it first")
        if (revision := record["key"].get("base_revision")) != self.model.revision:
            raise AdapterError(
                f"its part {parent.name!r} is an adapter of revision {revision!r} of its base, and "
                f"{self.model.config.name!r} is {self.model.revision!r}; adapters of two bases cannot be merged, "
                "train it again"
            )
        return str(record["content_hash"])


def _why(folder: Path) -> str:
    """Return why an adapter failed, where that is noted."""
    note = failure_file(folder)
    return f" ({read_json(note)['reason']})" if note.exists() else ""


def prepare_merges(
    config: GridConfig,
    run: RunFolder,
    selection: Selection,
    trained: Sequence[TrainingJob],
    *,
    with_weights: bool = True,
) -> list[MergeJob]:
    """Return the merges of a selection, model by model, seed by seed.

    Raises:
        UserError: If a part is neither there nor among what is trained, or is of another base; names every fault.
    """
    wanted = [recipe for recipe in config.recipes if recipe.merge and recipe.source in selection.sources]
    known = {job.model.config.name: job.model for job in trained}
    jobs = []
    for each in selection.models if wanted else ():
        model = known.get(each.name) or find_model(each, config.lora.target_modules, with_weights=with_weights)
        jobs += [_merge_job(run, model, seed, recipe) for seed in selection.seeds for recipe in wanted]
    coming = {job.folder for job in trained}
    faults = [fault for job in jobs for fault in _faults(job, coming)]
    if faults:
        raise UserError(f"{len(faults)} fault(s), nothing was made:" + "".join(f"\n  - {fault}" for fault in faults))
    return jobs


def _merge_job(run: RunFolder, model: ResolvedModel, seed: int, recipe: Recipe) -> MergeJob:
    assert recipe.merge is not None
    folder = run.adapter(model.config.name, seed, recipe.source)
    parents = tuple(Parent(name, folder.with_name(name)) for name in recipe.merge.parents)
    return MergeJob(model, seed, recipe.source, folder, recipe.merge, parents)


def _faults(job: MergeJob, coming: Collection[Path]) -> list[str]:
    faults = []
    for parent in job.parents:
        if parent.folder in coming and not parent.folder.exists():
            continue
        try:
            job.content_hash(parent)
        except UserError as error:
            faults.append(f"{job.name}: {error}")
    return faults


def make_merges(
    jobs: Sequence[MergeJob], config: GridConfig, run: RunFolder, events: TrainingEvents
) -> dict[str, str | None]:
    """Make adapters of others; one that cannot be made is noted and the others go on.

    Returns:
        By job, why it failed; None if it did not.

    Raises:
        UserError: If the disk is full or not writable.
    """
    reasons: dict[str, str | None] = {}
    for job in jobs:
        try:
            _make(job, config, run, events)
            reasons[job.name] = None
        except AdapterError as error:
            mark_failed(job, str(error))
            events(AdapterFailed(job=job.name, reason=str(error)))
            reasons[job.name] = str(error)
    return reasons


def _make(job: MergeJob, config: GridConfig, run: RunFolder, events: TrainingEvents) -> None:
    started, start = datetime.now(UTC), time.perf_counter()
    if is_finished(job, config):
        return
    key = job.key_parts(config)  # says which part is not there
    folders = [parent.folder for parent in job.parents]
    model = merge_adapters(folders, job.merge, seed=job.seed)
    wall_s = time.perf_counter() - start
    record = make_record(job, key, started, wall_s=wall_s)
    with unfinished_folder(run, job) as folder:
        save_adapter(model, folder, job, record=record, expected=saved_keys(folders))
    events(AdapterMerged(job=job.name, method=job.merge.method, wall_s=wall_s))
