"""The training of one adapter as a generator: it hands out the batch to be computed next and gets its loss back.

The loop is that of transformers' Trainer with the Trainer's own parts (sampler, optimizer, schedule, callbacks, logs),
so that an adapter trained beside others is the one it is alone. What is computed when is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from transfergrid.trainers.sft.joint_pass import Adapter, Batch

Steps = Generator[Batch, torch.Tensor, None]
"""Yields batches; is sent the loss of each, its gradients added."""


class OwnRandomState:
    """Random numbers that follow one adapter's seed whatever is drawn in between."""

    def __init__(self) -> None:
        """Start from the current state."""
        self._state = torch.get_rng_state()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw from it."""
        others = torch.get_rng_state()
        torch.set_rng_state(self._state)
        try:
            yield
        finally:
            self._state = torch.get_rng_state()
            torch.set_rng_state(others)


class AdapterSteps:
    """Trains the adapter of one trainer, batch by batch."""

    def __init__(self, trainer: Any, adapter: Adapter) -> None:
        """Prepare what Trainer.train prepares; the trainer's adapter must be attached, and its seed set."""
        self._trainer, self._adapter, args = trainer, adapter, trainer.args
        self._random = OwnRandomState()
        with self._random():
            self._loader = trainer.get_train_dataloader()
        counts = trainer.set_initial_training_values(args, self._loader)
        self._n_epochs, self._n_updates, max_steps = counts[0], counts[1], counts[-1]
        trainer._init_training_state(max_steps, self._n_updates, self._n_epochs, None, None)
        trainer.create_optimizer()
        trainer.create_scheduler(num_training_steps=max_steps)
        self._parameters = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(trainer.callback_handler, name, getattr(trainer, name))
        trainer.callback_handler.train_dataloader = self._loader
        self._tell("on_train_begin")

    def run(self) -> Steps:
        """Train to the end."""
        trainer = self._trainer
        if trainer.args.eval_on_start:
            yield from self._validate()
        for epoch in range(self._n_epochs):
            self._tell("on_epoch_begin")
            yield from self._run_epoch(epoch)
            self._tell("on_epoch_end")
            if trainer.control.should_evaluate:
                yield from self._validate()
            if trainer.control.should_training_stop:
                break
        self._tell("on_train_end")

    def _run_epoch(self, epoch: int) -> Steps:
        trainer, n_batches, done = self._trainer, len(self._loader), 0
        self._loader.set_epoch(epoch)
        batches = iter(self._loader)
        for _ in range(self._n_updates):
            n_wanted = min(trainer.args.gradient_accumulation_steps, n_batches - done)
            with self._random():
                samples, n_supervised = trainer.get_batch_samples(batches, n_wanted, trainer.args.device)
            done += len(samples)
            self._tell("on_step_begin")
            loss = torch.zeros((), device=trainer.args.device)
            for inputs in samples:
                share = yield Batch(self._adapter, inputs, n_supervised, learns=True)
                trainer.take_loss(share, inputs)
                loss += share
            self._update(loss, epoch + done / n_batches)
            if trainer.control.should_training_stop:
                return

    def _update(self, loss: torch.Tensor, epoch: float) -> None:
        """Clip the gradients, move the weights and the schedule, log."""
        trainer = self._trainer
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, trainer.args.max_grad_norm)
        self._tell("on_pre_optimizer_step")
        trainer.optimizer.step()
        self._tell("on_optimizer_step")
        rate = trainer._get_learning_rate()
        trainer.lr_scheduler.step()
        for weight in self._parameters:
            weight.grad = None
        trainer.state.global_step += 1
        trainer.state.epoch = epoch
        self._tell("on_step_end")
        trainer.log({"loss": loss.item(), "grad_norm": norm.item(), "learning_rate": rate})

    def _validate(self) -> Steps:
        inputs, n_supervised = self._trainer.validation_inputs()
        loss = yield Batch(self._adapter, inputs, n_supervised, learns=False)
        self._trainer.take_validation_loss(loss)

    def _tell(self, event: str) -> None:
        """Tell the callbacks."""
        trainer = self._trainer
        trainer.control = getattr(trainer.callback_handler, event)(trainer.args, trainer.state, trainer.control)
