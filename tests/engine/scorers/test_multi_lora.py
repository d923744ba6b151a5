"""What the engine's ways are called in a key, and adapters that can only be merged."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import edit_json, make_tiny_adapter
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.adapters.merge import check_mergeable, merge_adapter
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.scorers.multi_lora import MultiLora
from transfergrid.engine.scorers.sequential import Sequential
from transfergrid.engine.scorers.vllm_way import vllm_key_parts
from transfergrid.engine.workers.version import vllm_version
from transfergrid.grid import UserError


def test_the_two_ways_differ_in_their_way_alone() -> None:
    config = EngineConfig(vllm_args={"load_format": "auto"})
    multi, sequential = dict(MultiLora(config).key_parts()), dict(Sequential(config).key_parts())
    assert multi.pop("way") == "multi-lora"
    assert sequential.pop("way") == "sequential"
    assert multi == sequential == {"name": "vllm", "version": vllm_version(), "arguments": {"load_format": "auto"}}


def test_a_device_other_than_the_cpu_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = vllm_key_parts("multi-lora", EngineConfig())
    monkeypatch.setattr("transfergrid.engine.scorers.vllm_way.engine_device_type", lambda: "cuda")
    assert vllm_key_parts("multi-lora", EngineConfig()) == {**on_cpu, "device": "cuda"}
    assert vllm_key_parts("multi-lora", EngineConfig(), device="cpu") == on_cpu  # a server's, not this machine's


def test_a_machine_without_an_engine_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UserError, match="no engine is installed; expected one of the packages"):
        vllm_version()


@pytest.fixture
def folder(tiny_adapters: tuple[Path, ...], tmp_path: Path) -> Path:
    shutil.copytree(tiny_adapters[0], tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_that_vllm_does_not_serve_can_be_merged(folder: Path, tiny_llama: Path) -> None:
    edit_json(folder / CONFIG_FILE, use_dora=True)
    with pytest.raises(AdapterError, match="uses DoRA"):
        MultiLora(EngineConfig()).check_adapter(folder, tiny_llama, name="a")
    adapter = Sequential(EngineConfig()).check_adapter(folder, tiny_llama, name="a")
    assert (adapter.rank, adapter.name) == (8, f"a@{adapter.content_hash[:12]}")


def test_adapters_of_a_base_with_experts_are_refused_on_the_cpu(
    folder: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_llama, tmp_path / "experts")
    edit_json(base / "config.json", num_local_experts=4)
    maker = MultiLora(EngineConfig())
    monkeypatch.setattr("transfergrid.engine.scorers.vllm_way.engine_device_type", lambda: "cpu")
    with pytest.raises(
        AdapterError, match=r"'a' is of a base with experts, .* on a GPU only; 'grid eval --sequential'"
    ):
        maker.check_adapter(folder, base, name="a")
    monkeypatch.setattr("transfergrid.engine.scorers.vllm_way.engine_device_type", lambda: "cuda")
    assert maker.check_adapter(folder, base, name="a").rank == 8


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_half_an_adapter_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"adapter 'a' has no {name}"):
        check_mergeable(folder, name="a")


def test_a_broken_configuration_is_refused(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("[1]", encoding="utf-8")
    with pytest.raises(AdapterError, match=r"adapter_config\.json in .* cannot be read: .*; save it again"):
        check_mergeable(folder, name="a")


def test_merging_changes_the_weights_by_the_adapters_product(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")
    base, merged = load_file(tiny_llama / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    weights = load_file(folder / WEIGHTS_FILE)
    name = "model.layers.1.mlp.down_proj"
    a, b = (weights[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    expected = base[f"{name}.weight"] + 2.0 * b @ a  # alpha / r = 16 / 8
    assert (merged[f"{name}.weight"] - expected).abs().max() < 1e-5
    assert merged["model.embed_tokens.weight"].equal(base["model.embed_tokens.weight"])


def test_an_adapter_of_another_shape_cannot_be_merged(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    edit_json(folder / CONFIG_FILE, r=4)
    with pytest.raises(AdapterError, match=r"adapter 'a@[0-9a-f]{12}' cannot be merged"):
        merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")


def test_an_adapter_with_weights_that_are_not_used_is_refused(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    edit_json(folder / CONFIG_FILE, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match=r"does not fit this base: .* weights differ, for example"):
        merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(10, 60)[None]).logits.double().log_softmax(-1)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gemma3_vision", "tiny_qwen2"])
@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"], "use_rslora": True},
        {"target_modules": ["lm_head", "embed_tokens"]},
        {"target_modules": ["lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [11, 12, 13]},
        {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    ],
    ids=str,
)
def test_a_merged_model_scores_as_peft_does_unmerged_though_its_embeddings_are_tied(
    family: str, changes: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = request.getfixturevalue(family)
    folder = make_tiny_adapter(base, tmp_path / "adapter", **changes)
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: value if ".lora_A" in key else value + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in load_file(folder / WEIGHTS_FILE).items()
        if "base_layer" not in key
    }
    save_file(weights, folder / WEIGHTS_FILE)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = logits(model)
    expected = logits(PeftModel.from_pretrained(model, folder))
    merge_adapter(base, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert (logits(merged) - expected).abs().max() < 1e-4 < 0.1 < (plain - expected).abs().max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_the_untied_end_keeps_its_bits(dtype: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = make_tiny_adapter(tiny_llama, tmp_path / "adapter", target_modules=["lm_head"])
    merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype=dtype)
    base, merged = load_file(tiny_llama / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    weights = load_file(folder / WEIGHTS_FILE)
    a, b = (weights[f"base_model.model.lm_head.lora_{side}.weight"] for side in "AB")
    tied = base["model.embed_tokens.weight"].to(getattr(torch, dtype))
    assert merged["model.embed_tokens.weight"].equal(tied)
    assert torch.allclose(merged["lm_head.weight"].float(), tied.float() + 2.0 * b @ a, rtol=2**-8, atol=1e-3)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False


def test_an_adapter_that_peft_cannot_merge_is_refused_in_words(tiny_llama: Path, tmp_path: Path) -> None:
    folder = make_tiny_adapter(tiny_llama, tmp_path / "adapter", lora_bias=True)
    with pytest.raises(AdapterError, match="cannot be merged: RuntimeError: Impossible to merge LoRA with `lora_bias"):
        merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", None, 3])
def test_an_adapter_without_weights_to_merge_is_refused(folder: Path, kind: object) -> None:
    edit_json(folder / CONFIG_FILE, peft_type=kind)
    with pytest.raises(AdapterError, match=rf"is of type {kind!r}, which has no weights to merge; expected a LoRA"):
        check_mergeable(folder, name="a")
