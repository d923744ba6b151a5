"""TRL's SFTTrainer with the parts replaced that cost time and decide nothing.

Kept: the optimizer, the schedule, clipping, accumulation, shuffling, collation, callbacks, logging and trackers.
Replaced: a step computes its batch in groups of like length without an attention mask (right padding is never seen by
a causal model), the loss meets the vocabulary on supervised positions only, and validation is one exact mean over
supervised tokens instead of a mean over batches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from trl import SFTTrainer

from transfergrid.grid import UserError
from transfergrid.trainers.sft import IGNORED
from transfergrid.trainers.sft.loss import Decoder
from transfergrid.trainers.sft.microbatches import LIMITS, MicrobatchLimits, group_by_length


class NonFiniteLossError(UserError):
    """A loss that is not a number; the adapter cannot be trained with these settings."""


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains the adapter of a peft model on examples that are tokens already."""

    def __init__(
        self,
        model: Any,
        *args: Any,
        plain_head: bool,
        dtype: str = "float32",
        limits: MicrobatchLimits | None = None,
        **kwargs: Any,
    ) -> None:
        """Take SFTTrainer's arguments.

        Args:
            model: The peft model, or one whose own weights are trained, in float32.
            *args: SFTTrainer's.
            plain_head: Whether the base's logits are its vocabulary projection and nothing more.
            dtype: Number format that a model of float32 weights is computed in.
            limits: How much is computed at once; None: what suits the device.
            **kwargs: SFTTrainer's.
        """
        is_peft = hasattr(model, "get_base_model")
        adapter = [
            (weight, weight.detach().clone()) for weight in model.parameters() if is_peft and weight.requires_grad
        ]
        super().__init__(model, *args, **kwargs)
        for weight, exact in adapter:  # TRL rounds those on a quantised base to bfloat16, which small steps cannot move
            weight.data = exact
        self._decoder = Decoder(self.model.get_base_model() if is_peft else self.model)
        self._is_plain = plain_head
        self._computes_in = getattr(torch, dtype)
        self._limits = limits or LIMITS[self.args.device.type]
        self.model_accepts_loss_kwargs = self._loss_shifts_labels = True  # supervised tokens of a step are counted
        self.n_tokens_seen = 0
        """Tokens trained on so far, without padding."""

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Add up the gradients of a batch, group by group.

        Args:
            model: The peft model.
            inputs: input_ids, labels and attention_mask, shape [B, T].
            num_items_in_batch: Supervised tokens of the optimizer step.

        Returns:
            The batch's share of the step's mean loss per supervised token, nats.

        Raises:
            NonFiniteLossError: If it is not finite.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        for part in self._groups(inputs):
            loss = self.compute_loss(model, part, num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss)
            total += loss.detach()
        self.take_loss(total, inputs)
        return total

    def take_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Count a batch's tokens and check its loss.

        Raises:
            NonFiniteLossError: If it is not finite; names step and learning rate.
        """
        self.n_tokens_seen += int(inputs["attention_mask"].sum())
        if not math.isfinite(loss.item()):
            raise NonFiniteLossError(
                f"loss is {loss.item()} at step {self.state.global_step + 1} with learning rate "
                f"{self._get_learning_rate():.3g}; lower training.learning_rate, or raise training.warmup_ratio"
            )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one group: the sum over its supervised tokens, divided by the step's.

        Models whose logits are more than a projection go TRL's way.
        """
        with torch.autocast(self.args.device.type, self._computes_in, enabled=self._computes_in != torch.float32):
            if not self._is_plain or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            ids, labels = inputs["input_ids"], inputs["labels"]
            return self._decoder.losses(ids, labels, [len(ids)]).sum() / num_items_in_batch

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the mean loss per supervised token over all validation examples, nats, and tell the callbacks.

        Raises:
            NonFiniteLossError: If it is not finite.
        """
        self.model.eval()
        inputs, n_supervised = self.validation_inputs()
        total = torch.zeros((), device=self.args.device)
        with torch.no_grad():
            for part in self._groups(inputs):
                total += self.compute_loss(self.model, part, num_items_in_batch=n_supervised)
        return self.take_validation_loss(total)

    def validation_inputs(self) -> tuple[dict[str, Any], torch.Tensor]:
        """Return all validation examples as one batch, and the number of their supervised tokens."""
        inputs = self._prepare_inputs(self.data_collator(list(self.eval_dataset)))
        return inputs, (inputs["labels"][:, 1:] != IGNORED).sum()

    def take_validation_loss(self, loss: torch.Tensor) -> dict[str, float]:
        """Check the mean loss of the validation examples, log it, and tell the callbacks.

        Raises:
            NonFiniteLossError: If it is not finite.
        """
        if not math.isfinite(loss.item()):
            raise NonFiniteLossError(
                f"validation loss is {loss.item()} after step {self.state.global_step}; lower training.learning_rate"
            )
        metrics = {"eval_loss": loss.item()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _groups(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a batch as groups of like length, each padded to its own longest example."""
        lengths = inputs["attention_mask"].sum(1).tolist()
        groups = []
        for group in group_by_length(lengths, self._limits):
            rows, longest = list(group), max(lengths[index] for index in group)
            groups.append({name: inputs[name][rows, :longest] for name in ("input_ids", "labels", "attention_mask")})
        return groups
