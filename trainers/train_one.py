"""One adapter, from its job to its folder, on a base that is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.adapter_folder import save_adapter, unfinished_folder
from transfergrid.trainers.adapter_training import SaveAdapter, train_adapter
from transfergrid.trainers.base_model import LoadedBase, expected_keys, load_base
from transfergrid.trainers.events import AdapterFailed, AdapterFinished, BaseLoaded, Remark, TrainingEvents
from transfergrid.trainers.jobs import TrainingJob
from transfergrid.trainers.record import TrainedAdapter, training_record
from transfergrid.trainers.trackers import tracked_run


class SaveError(UserError):
    """An adapter that cannot be saved: the next one could not be either, so the sweep ends."""


def open_base(job: TrainingJob, config: GridConfig, events: TrainingEvents) -> LoadedBase:
    """Load the base of a job."""
    base = load_base(job.model.folder, config.training)
    name = job.model.config.name
    events(BaseLoaded(model=name, dtype=base.dtype, device=base.device))
    if not base.plain_head:
        events(Remark(message=f"{name}: its logits are more than one projection; the loss goes TRL's slower way"))
    return base


def train_one(
    job: TrainingJob, base: LoadedBase, config: GridConfig, run: RunFolder, *, events: TrainingEvents
) -> None:
    """Train and save one adapter; its last event is that it is finished or failed.

    Raises:
        SaveError: If it cannot be saved.
    """
    with unfinished_folder(run, job) as folder, ending(job, events) as end:
        save = make_save(job, base, config, folder)
        with tracked_run(config.training.report_to, run.tracking, job.name):
            end(train_adapter(job, base, config, scratch=folder, events=events, save=save))


def make_save(job: TrainingJob, base: LoadedBase, config: GridConfig, folder: Path) -> SaveAdapter:
    """Return what saves an adapter that is started now; it raises a SaveError where that fails."""
    started = datetime.now(UTC)
    is_full = config.training.method == "full"
    expected = None if is_full else expected_keys(base.model, config.lora.target_modules)

    def save(model: object, trained: TrainedAdapter) -> None:
        record = training_record(job, base, config, trained, started=started)
        try:
            save_adapter(model, folder, job, record=record, expected=expected)
        except UserError as error:
            raise SaveError(str(error)) from error

    return save


@contextmanager
def ending(job: TrainingJob, events: TrainingEvents) -> Iterator[Callable[[TrainedAdapter], None]]:
    """Say at the end that an adapter is finished, or failed if it was given up; call what is yielded with its record.

    Raises:
        SaveError: If it cannot be saved.
    """
    found: list[TrainedAdapter] = []
    try:
        yield found.append
    except SaveError:
        raise
    except UserError as error:
        events(AdapterFailed(job=job.name, reason=str(error)))
        return
    (trained,) = found
    events(
        AdapterFinished(
            job=job.name,
            best_epoch=trained.best_epoch,
            validation_loss=trained.best_validation_loss,
            untrained_loss=trained.untrained_validation_loss,
            wall_s=trained.wall_s,
        )
    )
