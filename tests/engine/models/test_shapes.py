"""Linear layers of a base are told from its files, or from its configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.models.shapes import plan_linear_shapes, read_linear_shapes


def test_linear_shapes_are_those_of_the_checkpoint(tiny_llama: Path) -> None:
    base = read_linear_shapes(tiny_llama)
    assert base["layers.0.self_attn.k_proj"] == (64, 128)
    assert base["layers.1.mlp.down_proj"] == (128, 192)
    assert len(base) == 14


def test_a_base_of_another_build_is_named_by_one_of_its_layers(tmp_path: Path) -> None:
    save_file({"transformer.h.0.attn.c_attn.weight": torch.zeros(4, 12)}, tmp_path / "model.safetensors")
    with pytest.raises(AdapterError, match=r"like 'transformer.h.0.attn.c_attn.weight'; expected .* GPT-2, are not"):
        read_linear_shapes(tmp_path)


def test_folder_without_weights_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has no safetensors with decoder layers"):
        read_linear_shapes(tmp_path)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen2", "tiny_gemma3"])
def test_layers_told_from_the_configuration_are_those_of_the_checkpoint(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(family)
    snapshot = tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    shutil.copy(folder / "config.json", snapshot)
    assert plan_linear_shapes(snapshot) == read_linear_shapes(folder) == plan_linear_shapes(folder)


def test_layers_of_an_image_encoder_are_not_told(tmp_path: Path) -> None:
    from transformers import Gemma3Config

    snapshot = tmp_path / "snapshots" / "0123abcd"
    text = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    Gemma3Config(text_config={**text, "vocab_size": 320}).save_pretrained(snapshot)
    names = {module.rpartition(".")[0] for module in plan_linear_shapes(snapshot)}
    assert names == {f"layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn", "mlp")}


def test_layers_are_told_only_of_models_that_transformers_knows(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has no safetensors with decoder layers"):
        plan_linear_shapes(tmp_path)
    snapshot = tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for text, reason in (
        ('{"model_type": "unheard_of"}', "unheard_of"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000000}', r"1e\+09 layers"),
    ):
        (snapshot / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(
            AdapterError, match=rf"told from its config\.json \(.*{reason}.*\); expected a causal language"
        ):
            plan_linear_shapes(snapshot)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 988097824\n",
        b"",
        (2).to_bytes(8, "little") + b"[]",
        (14).to_bytes(8, "little") + b'{"lm_head": 1}',
        (8).to_bytes(8, "little") + b'{"a": {}',
    ],
    ids=["git-lfs pointer", "empty", "no mapping", "no shapes", "cut off"],
)
def test_damaged_weights_of_a_base_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    message = (
        r"'model\.safetensors' in model folder '.*' is not a safetensors file \(.*\); was it cloned without git-lfs"
    )
    with pytest.raises(AdapterError, match=message):
        read_linear_shapes(tmp_path)
