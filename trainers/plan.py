"""What a training sweep would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.adapter_folder import failure_file, is_finished
from transfergrid.trainers.jobs import AdapterJob, TrainingJob, prepare_jobs
from transfergrid.trainers.sources.merge_jobs import prepare_merges


@dataclass(frozen=True)
class TrainingPlan:
    """What a sweep would do."""

    jobs: tuple[tuple[str, int, int, int, int, str], ...]
    """Per job: name, train items, steps, tokens, items that are cut, ``finished`` or ``failed before`` or ``to do``."""

    def __rich__(self) -> Table:
        """Render one row per job; in a narrow terminal a name takes two lines."""
        table = Table(title="Adapters to train")
        table.add_column("adapter", overflow="fold")
        for name in ("train\nitems", "steps", "tokens", "items\ncut"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for name, items, steps, tokens, cut, state in self.jobs:
            table.add_row(Text(name), str(items), str(steps), f"{tokens:,}", str(cut), state)
        return table

    def rows(self) -> pl.DataFrame:
        """Return one row per job."""
        columns = ["adapter", "n_items", "n_steps", "n_tokens", "n_cut_items", "state"]
        return pl.DataFrame(self.jobs, schema=columns, orient="row")

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object per job."""
        return self.rows().to_dicts()


def plan_training(config: GridConfig, run: RunFolder, selection: Selection) -> TrainingPlan:
    """Return what ``train_adapters`` would do; everything is checked, no weights are fetched from the hub, none loaded.

    Raises:
        UserError: As ``train_adapters`` before its first job.
    """
    ensure_data(config, run.data)
    jobs = prepare_jobs(config, run, selection, with_weights=False)
    merges = prepare_merges(config, run, selection, jobs, with_weights=False)
    rows = [_row(job, config) for job in jobs]
    rows += [(merge.name, 0, 0, 0, 0, _state(merge, config)) for merge in merges]
    return TrainingPlan(tuple(rows))


def _row(job: TrainingJob, config: GridConfig) -> tuple[str, int, int, int, int, str]:
    training, data = config.of(job.source.variant).training, job.data
    n_steps = job.n_steps(training.batch_size * training.gradient_accumulation, training.epochs)
    n_tokens = training.epochs * data.n_train_tokens
    return job.name, len(data.train), n_steps, n_tokens, data.n_truncated_items, _state(job, config)


def _state(job: AdapterJob, config: GridConfig) -> str:
    if job.is_ready and is_finished(job, config):
        return "finished"
    return "failed before" if failure_file(job.folder).exists() else "to do"
