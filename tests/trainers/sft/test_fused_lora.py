from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from transfergrid.trainers.sft.fused_lora import LoraRows, LoraWeights, fuse_lora_layers, lora_linear


def make_peft(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings})
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def logits_and_gradients(model: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits = model(torch.arange(10, 40).view(2, 15)).logits
    logits.float().square().mean().backward()
    return logits, [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(5, 7, dtype=torch.float64).requires_grad_(False)
    shapes = ((2, 3, 5), (2, 5), (7, 2), (3, 5), (7, 3))
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def layer(x: torch.Tensor, *sides: Any) -> torch.Tensor:  # two adapters of other ranks on two and four rows
        parts = [LoraRows(0, 2, LoraWeights(*sides[:2], 1.5)), LoraRows(2, 6, LoraWeights(*sides[2:], 0.5))]
        return lora_linear(x, base, parts)

    assert torch.autograd.gradcheck(layer, inputs)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_fused_layers_compute_what_peft_computes(family: str, rslora: bool, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    expected, expected_grads = logits_and_gradients(make_peft(folder, use_rslora=rslora))
    model = make_peft(folder, use_rslora=rslora)
    assert len(fuse_lora_layers(model)) == 6
    logits, grads = logits_and_gradients(model)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-7)


def test_bfloat16_base_keeps_float32_adapters_and_close_gradients(tiny_llama: Path) -> None:
    expected, expected_grads = logits_and_gradients(make_peft(tiny_llama))
    model = make_peft(tiny_llama, torch.bfloat16)
    fuse_lora_layers(model)
    logits, grads = logits_and_gradients(model)
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).norm() / expected.norm() < 0.05
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - expected_grad).norm() / expected_grad.norm() < 0.2


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_layers_with_more_than_the_plain_sum_keep_pefts_way(tiny_llama: Path, settings: dict[str, Any]) -> None:
    assert fuse_lora_layers(make_peft(tiny_llama, **settings)) == {}


def test_nothing_below_the_lowest_adapter_gets_a_gradient(tiny_llama: Path) -> None:
    model = make_peft(tiny_llama)
    fuse_lora_layers(model)
    lowest = model.get_base_model().model.layers[0].self_attn.q_proj
    seen = []
    lowest.register_forward_hook(lambda _, args, __: seen.append(args[0].requires_grad))
    logits_and_gradients(model)
    assert seen == [False]
