from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from transfergrid.trainers.examples import IGNORED
from transfergrid.trainers.sft import loss as loss_module
from transfergrid.trainers.sft.loss import has_plain_head, supervised_loss


@pytest.mark.parametrize("rows_at_once", [1, 4, 128])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradient_equal_cross_entropy_over_full_logits(
    rows_at_once: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss_module.ROWS_AT_ONCE, "cpu", rows_at_once)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=bias).requires_grad_(False)
    hidden = torch.randn(3, 6, 8, requires_grad=True)
    labels = torch.randint(0, 50, (3, 6)).masked_fill(torch.rand(3, 6) < 0.4, IGNORED)
    expected = functional.cross_entropy(
        head(hidden)[:, :-1].reshape(-1, 50), labels[:, 1:].reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    (expected_grad,) = torch.autograd.grad(expected / 7, hidden)
    found = supervised_loss(hidden, labels, head)
    (grad,) = torch.autograd.grad(found / 7, hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_batch_without_supervised_tokens_has_no_loss_and_no_gradient() -> None:
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    loss = supervised_loss(hidden, torch.full((1, 3), IGNORED), torch.nn.Linear(4, 5).requires_grad_(False))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"final_logit_softcapping": 30.0}, False),
        ({"logit_scale": 0.5}, False),
        ({"logit_scale": 1.0}, True),
    ],
)
def test_models_that_change_their_logits_are_told_apart(settings: dict[str, Any], expected: bool) -> None:
    from transformers import LlamaConfig

    assert has_plain_head(LlamaConfig(**settings)) is expected
