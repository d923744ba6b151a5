"""The adapters of one base: side by side in one pass where they can share it, else one after another.

An adapter trained beside others has its own seed, batches, optimizer, schedule and callbacks, see ``sft.steps``. They
need not have as many steps: one that has ended leaves, the next comes in.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.adapter_folder import unfinished_folder
from transfergrid.trainers.adapter_training import PreparedAdapter
from transfergrid.trainers.base_model import AttachedAdapter, LoadedBase, targeted_layers
from transfergrid.trainers.events import Remark, TrainingEvents
from transfergrid.trainers.jobs import BatchShape, TrainingJob
from transfergrid.trainers.sft.memory import (
    available_gib,
    free_memory,
    is_out_of_memory,
    peak_memory_gib,
    reset_peak_memory,
    used_gib,
)
from transfergrid.trainers.trackers import tracked_run
from transfergrid.trainers.train_one import ending, make_save, open_base, train_one
from transfergrid.wording import count

if TYPE_CHECKING:
    import torch

    from transfergrid.trainers.sft.joint_pass import Batch

AUTO_AT_MOST = 16
"""Adapters in one pass that ``auto`` never exceeds: a process that is killed loses those that are in it."""
TIMED_PASSES = 6
"""Passes that are timed, side by side and one by one in turns, before ``auto`` chooses."""
WORTH_SHARING = 1.1
"""Speed of a shared pass over that one by one, from which ``auto`` shares it: six passes say it to some 5 %, the rest
of training gains nothing, and adapters that share a pass are lost together and have other bits."""
_KEPT = 5 * 4 / 2**30
"""GiB kept for one weight of an adapter: itself, gradient, two of AdamW, the best epoch's, in float32."""
_FREE_SHARE = 0.1
"""Share of the memory that can be had which stays free."""


def train_model(jobs: Sequence[TrainingJob], config: GridConfig, run: RunFolder, events: TrainingEvents) -> None:
    """Train the adapters of one model on one base in memory."""
    train_jobs(jobs, open_base(jobs[0], config, events), config, run, events=events)


def train_jobs(
    jobs: Sequence[TrainingJob], base: LoadedBase, config: GridConfig, run: RunFolder, *, events: TrainingEvents
) -> None:
    """Train and save adapters of one base, recipe by recipe; each one's last event is that it is finished or failed.

    Raises:
        SaveError: If one cannot be saved.
    """
    for variant in dict.fromkeys(job.source.variant for job in jobs):
        own = [job for job in jobs if job.source.variant == variant]
        _train_recipe(own, base, config.of(variant), run, events=events)


def _train_recipe(
    jobs: Sequence[TrainingJob], base: LoadedBase, config: GridConfig, run: RunFolder, *, events: TrainingEvents
) -> None:
    """Train the adapters of one recipe."""
    asked = config.training.adapters_at_once
    if asked != 1 and len(jobs) > 1:
        if reason := why_alone(base, config):
            events(Remark(message=f"adapters are trained one by one: {reason}"))
        else:
            jobs = SideBySide(base, config, run, events).train(jobs)
    for job in jobs:
        train_one(job, base, config, run, events=events)


def why_alone(base: LoadedBase, config: GridConfig) -> str | None:
    """Return why adapters of a base cannot share a pass; None if they can."""
    import torch

    training, model = config.training, base.model
    trackers = sorted(set(training.report_to) - {"tensorboard", "none"})
    settings = model.config.get_text_config().to_dict()
    is_random = [name for name, value in settings.items() if ("drop" in name or "jitter" in name) and value]
    reasons = {
        "training.method is 'full'": training.method == "full",
        "lora.dropout is above 0": config.lora.dropout > 0,
        "training.quantization is set": training.quantization is not None,
        "training.gradient_checkpointing is set": training.gradient_checkpointing,
        "the base's logits are more than one projection": not base.plain_head,
        f"trackers {trackers} keep one run a process": bool(trackers),
        f"the base has {is_random}": bool(is_random),
        "lora.target_modules has others than plain linear layers": any(
            type(model.get_submodule(name)) is not torch.nn.Linear
            for name in targeted_layers(model, config.lora.target_modules)
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass(slots=True, eq=False)
class _Lane:
    """One adapter that is being trained."""

    job: TrainingJob
    steps: Any = None
    """From its first batch to its being saved; see ``sft.steps``."""
    batch: Any = None
    """What it has computed next."""
    at_once: int = 1
    """Most adapters of a pass that it was in."""


class SideBySide:
    """Trains adapters of one base in one pass."""

    def __init__(self, base: LoadedBase, config: GridConfig, run: RunFolder, events: TrainingEvents) -> None:
        """Take what the adapters share."""
        from transfergrid.trainers.sft.joint_pass import JointPass
        from transfergrid.trainers.sft.microbatches import LIMITS

        asked = config.training.adapters_at_once
        self._base, self._config, self._run, self._events = base, config, run, events
        self._n_most = AUTO_AT_MOST if asked == "auto" else asked
        self._clock = _Clock() if asked == "auto" else None
        self._shares_pass = True
        self._is_measured = False
        self._running: list[_Lane] = []
        self._waiting: deque[TrainingJob] = deque()
        self._pass = JointPass(
            base.model, targeted_layers(base.model, config.lora.target_modules), limits=LIMITS[base.device]
        )

    def train(self, jobs: Sequence[TrainingJob]) -> list[TrainingJob]:
        """Train adapters until all are done, or until sharing a pass is given up; return those that are left.

        Raises:
            SaveError: If one cannot be saved.
        """
        from transfergrid.trainers.sft.joint_pass import MixedRowsError

        self._waiting.extend(jobs)
        self._name = jobs[0].model.config.name
        reset_peak_memory(self._base.device)
        try:
            while self._running or (self._waiting and self._n_most > 1):
                self._admit()
                try:
                    losses = self._compute([lane.batch for lane in self._running])
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self._start_again(len(self._running) // 2, "memory ran out")
                except MixedRowsError as error:
                    self._start_again(1, str(error))
                else:
                    self._advance(losses)
        finally:
            self._drop_all()
        return list(self._waiting)

    def _admit(self) -> None:
        """Let adapters in; the second not before the first one's first step has shown what memory holds."""
        while self._waiting and len(self._running) < (self._n_most if self._is_measured else 1):
            lane = _Lane(self._waiting.popleft())
            lane.steps = self._train_lane(lane)
            self._running.append(lane)
            self._resume(lane, None)

    def _train_lane(self, lane: _Lane) -> Iterator[Batch]:
        """Train and save one adapter, batch by batch; it ends as ``train_one`` ends."""
        from transfergrid.trainers.sft.steps import AdapterSteps

        job, base, config, events, training = lane.job, self._base, self._config, self._events, self._config.training
        shape = BatchShape(batch_size=training.batch_size, gradient_accumulation=training.gradient_accumulation)
        with unfinished_folder(self._run, job) as folder, ending(job, events) as end:
            save = make_save(job, base, config, folder)
            adapter = AttachedAdapter(base, config.lora, job.seed)
            with adapter.on_base() as model, tracked_run(training.report_to, self._run.tracking, job.name):
                prepared = PreparedAdapter(model, job, base, config, shape=shape, scratch=folder, events=events)
                steps = AdapterSteps(prepared.trainer, adapter.weights)
            yield from steps.run()
            trained = prepared.result(at_once=lane.at_once)
            with adapter.on_base() as model:
                save(model, trained)
            end(trained)

    def _compute(self, batches: Sequence[Batch]) -> list[torch.Tensor]:
        """Return the losses of the adapters' batches, all in one pass where that is how they are trained."""
        is_timed = self._clock is not None and sum(batch.learns for batch in batches) > max(1, len(batches) // 2)
        together = self._clock.is_turn_of_all if self._clock and is_timed else self._shares_pass
        if together:
            for lane in self._running:
                lane.at_once = max(lane.at_once, len(batches))
        start = time.perf_counter()
        losses = self._pass.compute(batches) if together else [self._pass.compute([b])[0] for b in batches]
        if self._clock and is_timed:
            n_tokens = sum(int(batch.inputs["attention_mask"].sum()) for batch in batches)
            self._clock.take(n_tokens / (time.perf_counter() - start))
            if self._clock.n_passes == TIMED_PASSES:
                self._choose(self._clock.gain)
        return losses

    def _choose(self, gain: float) -> None:
        """Go on as is faster on this device."""
        self._clock = None
        n = count(len(self._running), "adapter")
        if gain >= WORTH_SHARING:
            self._tell(f"{n} in one pass train {gain:.2f} times as fast as one by one; they share it")
        else:
            self._tell(f"{n} in one pass train {gain:.2f} times as fast as one by one; the others are trained alone")
            self._shares_pass, self._n_most = False, 1

    def _advance(self, losses: Sequence[torch.Tensor]) -> None:
        """Give every adapter its loss, and take its next batch."""
        for lane, loss in zip(tuple(self._running), losses, strict=True):
            is_step = lane.batch.learns
            self._resume(lane, loss)
            if is_step and not self._is_measured:
                self._measure(lane)

    def _resume(self, lane: _Lane, loss: torch.Tensor | None) -> None:
        try:
            lane.batch = lane.steps.send(loss)
        except StopIteration:  # it is finished, or has failed
            self._running.remove(lane)

    def _measure(self, lane: _Lane) -> None:
        """Let in as many adapters as memory holds beside what one pass needs for itself."""
        self._is_measured, device = True, self._base.device
        n_weights = sum(side.numel() for layer in lane.batch.adapter.values() for side in (layer.a, layer.b))
        for_pass = max(0.0, peak_memory_gib(device) - used_gib(device))
        n_more = int((available_gib(device) * (1 - _FREE_SHARE) - for_pass) / (_KEPT * n_weights))
        if n_more + 1 < min(self._n_most, len(self._waiting) + 1):
            self._n_most = max(1, n_more + 1)
            self._tell(f"memory holds {count(self._n_most, 'adapter')} at once")

    def _start_again(self, n_most: int, reason: str) -> None:
        """Let all that are running wait again, and go on with fewer."""
        self._n_most = max(1, n_most)
        self._tell(
            f"{reason} with {count(len(self._running), 'adapter')} at once; they start again, {self._n_most} at once"
        )
        self._waiting.extendleft(lane.job for lane in reversed(self._running))
        self._drop_all()
        free_memory(self._base.device)

    def _drop_all(self) -> None:
        """Give up all that are running; their unfinished folders go."""
        for lane in self._running:
            lane.steps.close()
        self._running.clear()

    def _tell(self, message: str) -> None:
        self._events(Remark(message=f"{self._name}: {message}"))


class _Clock:
    """Tokens a second, one by one and side by side; the best of a few passes, since other work only slows them."""

    def __init__(self) -> None:
        self.n_passes = 0
        self._rates = [0.0, 0.0]

    @property
    def is_turn_of_all(self) -> bool:
        """Whether the next pass is one of all adapters."""
        return self.n_passes % 2 == 0

    def take(self, tokens_per_s: float) -> None:
        """Note a pass."""
        self._rates[self.is_turn_of_all] = max(self._rates[self.is_turn_of_all], tokens_per_s)
        self.n_passes += 1

    @property
    def gain(self) -> float:
        """Speed side by side over that one by one."""
        return self._rates[True] / self._rates[False]
