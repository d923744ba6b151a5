"""Cross-entropy of supervised positions: only their rows meet the vocabulary, and the gradient is made on the way.

TRL 1.16 projects every position onto the vocabulary on devices without Triton, computes the projection again for the
gradient, and adds entropy and accuracy over the whole vocabulary. Here a chunk of rows is projected once, its loss and
its gradient are taken while it is in the cache, and it is forgotten.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from transfergrid.trainers.sft import IGNORED

ROWS_AT_ONCE = {"cpu": 128, "cuda": 1024}
"""Rows whose float32 logits are held at once."""
_PROBE_TOKENS = 24
_LOGIT_CHANGES = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


class FusedCrossEntropy(torch.autograd.Function):
    """Sums of -log p(label) over the rows of every adapter, with the gradient of the rows made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, head: Any, labels: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Compute the sums.

        Args:
            ctx: Autograd's context.
            rows: Shape [S, hidden], those of an adapter side by side.
            head: The frozen vocabulary projection, weight of shape [V, hidden].
            labels: Shape [S].
            sizes: Rows of every adapter, K numbers with the sum S.

        Returns:
            Shape [K], float32, in nats.
        """
        losses = torch.empty(rows.shape[0], dtype=torch.float32, device=rows.device)
        grad = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        size = ROWS_AT_ONCE.get(rows.device.type, ROWS_AT_ONCE["cuda"])
        for start in range(0, rows.shape[0], size):
            chunk, gold = rows[start : start + size], labels[start : start + size, None]
            logits = torch.nn.functional.linear(chunk, head.weight, head.bias).float()
            normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
            losses[start : start + size] = (normaliser - logits.gather(1, gold)).squeeze(1)
            if grad is not None:
                probabilities = logits.sub_(normaliser).exp_()
                probabilities.scatter_add_(1, gold, torch.full_like(normaliser, -1.0))
                torch.mm(probabilities.to(rows.dtype), head.weight, out=grad[start : start + size])
        if grad is not None:
            ctx.save_for_backward(grad)
            ctx.sizes = sizes
        return torch.stack([part.sum() for part in torch.split(losses, list(sizes))])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        """Scale the gradients that the forward pass made, those of every adapter by its own weight."""
        (grad,) = ctx.saved_tensors
        weights = grads[0].to(grad.dtype)
        if len(ctx.sizes) > 1:
            sizes = torch.tensor(ctx.sizes, device=grad.device)
            weights = weights.repeat_interleave(sizes, output_size=grad.shape[0])[:, None]
        return grad * weights, None, None, None


def supervised_losses(hidden: torch.Tensor, labels: torch.Tensor, head: Any, sizes: Sequence[int]) -> torch.Tensor:
    """Return the summed losses of a batch's supervised positions, one for every adapter.

    Args:
        hidden: Last hidden states, shape [B, T, hidden].
        labels: Shape [B, T], -100 where a token is not learnt; the token at t is predicted from position t - 1.
        head: The vocabulary projection; if it is trained, there is one adapter's worth of sequences.
        sizes: Sequences of every adapter, K numbers with the sum B; those of an adapter lie side by side.

    Returns:
        Shape [K], float32, in nats, summed over supervised tokens.
    """
    targets = labels[:, 1:]
    mask = targets != IGNORED
    rows = hidden[:, :-1][mask]
    if head.weight.requires_grad:  # of a full fine-tune
        return torch.nn.functional.cross_entropy(head(rows).float(), targets[mask], reduction="sum")[None]
    counts = [rows.shape[0]] if len(sizes) == 1 else [int(part.sum()) for part in torch.split(mask, list(sizes))]
    losses: torch.Tensor = FusedCrossEntropy.apply(rows, head, targets[mask], counts)  # type: ignore[no-untyped-call]
    return losses


class Decoder:
    """A causal model as its backbone and its vocabulary projection: sequences in, losses out."""

    def __init__(self, model: Any) -> None:
        """Take a model without adapters, or the one below them."""
        self._backbone = model.base_model
        self._head = model.get_output_embeddings()
        self._needs_types = "token_type_ids" in inspect.signature(self._backbone.forward).parameters

    def losses(self, ids: torch.Tensor, labels: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return the summed losses of every adapter's sequences; shapes as in ``supervised_losses``."""
        types = {"token_type_ids": torch.zeros_like(ids)} if self._needs_types else {}
        hidden = self._backbone(input_ids=ids, use_cache=False, **types).last_hidden_state
        return supervised_losses(hidden, labels, self._head, sizes)


def has_plain_head(model: Any) -> bool:
    """Whether a model's logits are its vocabulary projection and nothing more: no soft cap, no scale, no layer between.

    The configuration may say that they are not; where it does not, the model's own logits of a short input decide.
    """
    text_config = model.config.get_text_config()
    if any(getattr(text_config, name, None) not in (None, 1, 1.0) for name in _LOGIT_CHANGES):
        return False
    ids = torch.linspace(0, text_config.vocab_size - 1, _PROBE_TOKENS, device=model.device).long()[None]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        try:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            found = model.get_output_embeddings()(hidden)
            error = (found - logits).abs().max() / logits.abs().max()
        except (AttributeError, TypeError, RuntimeError):  # another structure than a backbone and a head of its width
            return False
    return bool(error < (1e-4 if logits.dtype == torch.float32 else 2e-2))
