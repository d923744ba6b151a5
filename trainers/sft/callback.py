"""What a training run yields: the best weights, the curves, the events."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from transfergrid.trainers.events import EpochDone, StepDone, TrainingEvents


class BestWeights:
    """Copy of an adapter's weights at the epoch with the lowest validation loss."""

    def __init__(self, model: Any) -> None:
        """Watch a peft model's trainable weights."""
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._copies: list[torch.Tensor] = []
        self.loss = float("inf")
        self.epoch = 0

    def offer(self, loss: float, epoch: int) -> bool:
        """Keep the weights if their loss is the lowest so far; return whether it is. A tie keeps the earlier."""
        if not loss < self.loss:
            return False
        self.loss, self.epoch = loss, epoch
        if not self._copies:
            self._copies = [parameter.detach().cpu().clone() for parameter in self._parameters]
        for copy, parameter in zip(self._copies, self._parameters, strict=True):
            copy.copy_(parameter.detach())
        return True

    def restore(self) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for copy, parameter in zip(self._copies, self._parameters, strict=True):
                parameter.copy_(copy)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Collects curves, offers every epoch's weights, tells the events, stops early."""

    def __init__(self, job: str, events: TrainingEvents, best: BestWeights, *, patience: int | None) -> None:
        """Watch one adapter's training; it ends after ``patience`` epochs without a lower validation loss."""
        self.trainer: Any = None
        """Whose tokens are counted."""
        self.step_curve: list[dict[str, float]] = []
        self.epoch_curve: list[dict[str, float]] = []
        self.untrained_loss = float("inf")
        """Validation loss before the first step: that of the base."""
        self._job, self._events, self._best, self._patience = job, events, best, patience

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Note one optimizer step."""
        if logs is None or "loss" not in logs:
            return
        point = {name: float(logs[name]) for name in ("epoch", "loss", "learning_rate", "grad_norm") if name in logs}
        self.step_curve.append({"step": float(state.global_step)} | point)
        self._events(
            StepDone(
                job=self._job,
                step=state.global_step,
                epoch=float(state.epoch),
                loss=point["loss"],
                n_tokens=self.trainer.n_tokens_seen,
            )
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> Any:
        """Note one epoch; keep its weights or count it towards stopping. Before the first step: the base's loss."""
        if state.global_step == 0:
            self.untrained_loss = metrics["eval_loss"]
            return control
        epoch, loss = round(state.epoch), metrics["eval_loss"]
        is_best = self._best.offer(loss, epoch)
        self.epoch_curve.append({"epoch": epoch, "step": state.global_step, "validation_loss": loss})
        self._events(EpochDone(job=self._job, epoch=epoch, validation_loss=loss, is_best=is_best))
        if self._patience is not None and epoch - self._best.epoch >= self._patience:
            control.should_training_stop = True
        return control
