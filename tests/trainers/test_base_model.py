from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from transfergrid.config.settings import TrainingConfig
from transfergrid.config.training import LoraConfig
from transfergrid.grid import UserError
from transfergrid.trainers import base_model
from transfergrid.trainers.base_model import attached_adapter, expected_keys, load_base

FLOAT32 = TrainingConfig(dtype="float32")


def everything_about(model: Any) -> dict[str, Any]:
    """All that an adapter could leave behind."""
    hooks = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]
    return {
        "types": {name: type(module) for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": hooks,
        "config": copy.deepcopy(vars(model.config)),
        "generation": copy.deepcopy(vars(model.generation_config)),
        "trainable": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "gradients": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "modes": {module.training for module in model.modules()},
    }


def test_detached_base_is_as_it_was(tiny_llama: Path) -> None:
    base = load_base(tiny_llama, FLOAT32)
    before = everything_about(base.model)
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), attached_adapter(base, LoraConfig(r=4), 1) as model:
        model.gradient_checkpointing_enable()
        base.model.forward = lambda **_: None  # as TRL does
        base.model.config.use_cache = False
        base.model.generation_config.eos_token_id = 99
        base.model.add_model_tags(["x"])
        model.train()
        raise ZeroDivisionError
    assert everything_about(base.model) == before
    assert all(torch.equal(value, weights[name]) for name, value in base.model.state_dict().items())


def test_a_base_on_which_attaching_fails_is_as_it_was(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_base(tiny_llama, FLOAT32)
    before = everything_about(base.model)

    def run_out_of_memory(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(base_model, "fuse_lora_layers", run_out_of_memory)
    with pytest.raises(MemoryError), attached_adapter(base, LoraConfig(r=4), 1):
        pass
    assert everything_about(base.model) == before


def test_float16_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match=r"training\.dtype 'float16' would lose small gradients.*set it to 'bfloat16'"):
        load_base(tiny_llama, TrainingConfig(dtype="float16"))


def test_attached_adapter_follows_its_seed_only(tiny_llama: Path) -> None:
    base = load_base(tiny_llama, FLOAT32)

    def first_weights(seed: int) -> torch.Tensor:
        with attached_adapter(base, LoraConfig(r=4), seed) as model:
            return next(value for name, value in model.named_parameters() if "lora_A" in name).detach().clone()

    first, other = first_weights(1), first_weights(2)
    assert torch.equal(first_weights(1), first)
    assert not torch.equal(other, first)


def test_dropout_and_rslora_arrive_at_the_layers(tiny_llama: Path) -> None:
    base = load_base(tiny_llama, FLOAT32)
    with attached_adapter(base, LoraConfig(r=4, alpha=8, dropout=0.25, rslora=True), 1) as model:
        layer = model.get_base_model().model.layers[0].mlp.up_proj
        assert layer.lora_dropout["default"].p == 0.25
        assert layer.scaling["default"] == 4.0


def test_expected_keys_name_both_sides_of_every_targeted_layer(tiny_llama: Path) -> None:
    keys = expected_keys(load_base(tiny_llama, FLOAT32).model, ("q_proj",))
    assert keys == {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight"
        for layer in (0, 1)
        for side in "AB"
    }


def test_image_encoders_get_no_adapter() -> None:
    model = torch.nn.ModuleDict(
        {part: torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)}) for part in ("vision_tower", "language_model")}
    )
    assert expected_keys(model, ("q_proj",)) == {
        f"base_model.model.language_model.q_proj.lora_{side}.weight" for side in "AB"
    }


def test_expected_keys_of_a_model_of_images_are_those_that_peft_saves(tiny_gemma3_vision: Path, tmp_path: Path) -> None:
    from peft import get_peft_model_state_dict

    base = load_base(tiny_gemma3_vision, FLOAT32)
    expected = expected_keys(base.model, ("q_proj", "up_proj"))
    with attached_adapter(base, LoraConfig(r=4, target_modules=("q_proj", "up_proj")), 1) as model:
        model.save_pretrained(tmp_path)
        assert set(get_peft_model_state_dict(model)) == expected
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        assert set(file.keys()) == expected
    assert len(expected) == 6 * 2 * 2


def test_dtype_is_the_configured_one(tiny_llama: Path) -> None:
    base = load_base(tiny_llama, TrainingConfig(dtype="bfloat16"))
    assert (base.dtype, base.model.dtype) == ("bfloat16", torch.bfloat16)


def test_quantised_base_is_refused_without_a_gpu(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match=r"training\.quantization '4bit' needs a CUDA GPU, this is 'cpu'"):
        load_base(tiny_llama, TrainingConfig(quantization="4bit", dtype="float32"), device="cpu")


def test_quantised_base_asks_for_bitsandbytes(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="'8bit' needs bitsandbytes; install it with: pip install bitsandbytes"):
        load_base(tiny_llama, TrainingConfig(quantization="8bit", dtype="float32"), device="cuda")
