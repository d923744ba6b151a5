from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from transfergrid.trainers.sft import IGNORED
from transfergrid.trainers.sft import loss as loss_module
from transfergrid.trainers.sft.loss import has_plain_head, supervised_losses


@pytest.mark.parametrize("rows_at_once", [1, 4, 128])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", [[3], [1, 2]])
def test_losses_and_gradient_equal_cross_entropy_over_full_logits(
    rows_at_once: int, bias: bool, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss_module.ROWS_AT_ONCE, "cpu", rows_at_once)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=bias).requires_grad_(False)
    hidden = torch.randn(3, 6, 8, requires_grad=True)
    labels = torch.randint(0, 50, (3, 6)).masked_fill(torch.rand(3, 6) < 0.4, IGNORED)
    each = functional.cross_entropy(
        head(hidden)[:, :-1].reshape(-1, 50), labels[:, 1:].reshape(-1), ignore_index=IGNORED, reduction="none"
    )
    expected = torch.stack([part.sum() for part in each.view(3, 5).split(sizes)])
    weights = torch.tensor([1 / 7, 1 / 3][: len(sizes)])  # each adapter's loss is a mean over its own tokens
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), hidden)
    found = supervised_losses(hidden, labels, head, sizes)
    (grad,) = torch.autograd.grad((found * weights).sum(), hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_batch_without_supervised_tokens_has_no_loss_and_no_gradient() -> None:
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    head = torch.nn.Linear(4, 5).requires_grad_(False)
    loss = supervised_losses(hidden, torch.full((1, 3), IGNORED), head, [1])
    loss.sum().backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


SHAPE = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("Llama", {}, True),
        ("Qwen2", {}, True),
        ("Gemma2", {"head_dim": 32}, False),  # its configuration says so
        ("Cohere", {"logit_scale": 0.5}, False),
        ("Cohere", {"logit_scale": 1.0}, True),
        ("RecurrentGemma", {"lru_width": 64}, False),  # a soft cap under a name of its own
        ("ModernBertDecoder", {}, False),  # a layer before the projection
    ],
)
def test_a_head_that_is_more_than_a_projection_is_found(name: str, settings: dict[str, Any], expected: bool) -> None:
    import transformers

    config = getattr(transformers, f"{name}Config")(**SHAPE, **settings)
    torch.manual_seed(0)
    assert has_plain_head(transformers.AutoModelForCausalLM.from_config(config).eval()) is expected
