"""Layers that an engine does not apply are named; an adapter without effect is one by its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from transfergrid.engine.adapters.applied import require_modules
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.null import make_null_adapter
from transfergrid.engine.interfaces import AdapterError


def test_layers_that_are_not_applied_are_named(
    tiny_adapters: tuple[Path, ...], base: dict[str, tuple[int, int]]
) -> None:
    adapter = check_adapter(tiny_adapters[0], base, name="mine")
    applied = [f"language_model.model.{layer}" for layer in adapter.layers]
    require_modules(adapter, applied)
    lost = [name for name in applied if not name.endswith("layers.0.self_attn.q_proj")]
    with pytest.raises(AdapterError, match=r"missing layers \['layers.0.self_attn.q_proj'\] \(1\)"):
        require_modules(adapter, lost)
    with pytest.raises(AdapterError, match=r"unexpected layers \['layers.9.mlp.up_proj'\]"):
        require_modules(adapter, [*applied, "model.layers.9.mlp.up_proj"])


def test_null_adapter_loads_in_peft_and_is_told_apart(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path, base: dict[str, tuple[int, int]]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    null = check_adapter(make_null_adapter(tiny_llama, tmp_path / "null", rank=4), base, name="null")
    assert null.strength == 0
    assert check_adapter(tiny_adapters[0], base, name="full").strength > 0
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokens = torch.arange(10, 40)[None]
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, PeftModel.from_pretrained(model, null.path)(tokens).logits)
