"""Adapters are found, named by content, checked before anything is loaded, and refused with a way out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import edit_json, make_tiny_adapter
from transfergrid.engine.adapters.applied import adapter_modules, is_null_adapter, require_modules
from transfergrid.engine.adapters.check import check_adapter, check_adapters, served_rank
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE, find_adapters
from transfergrid.engine.adapters.null import make_null_adapter
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.models.shapes import plan_linear_shapes, read_linear_shapes


@pytest.fixture
def adapter_folder(tiny_adapters: tuple[Path, ...], tmp_path: Path) -> Path:
    """A copy of an adapter that a test may break."""
    return Path(shutil.copytree(tiny_adapters[0], tmp_path / "adapter"))


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> dict[str, tuple[int, int]]:
    return read_linear_shapes(tiny_llama)


def edit_weights(folder: Path, **renamed: str) -> None:
    """Rename parts of the keys of an adapter's weights."""
    weights = load_file(folder / WEIGHTS_FILE)
    for old, new in renamed.items():
        weights = {key.replace(old, new): value for key, value in weights.items()}
    save_file(weights, folder / WEIGHTS_FILE)


def test_linear_shapes_are_those_of_the_checkpoint(base: dict[str, tuple[int, int]]) -> None:
    assert base["layers.0.self_attn.k_proj"] == (64, 128)
    assert base["layers.1.mlp.down_proj"] == (128, 192)
    assert len(base) == 14


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
    (snapshot / "config.json").write_text('{"model_type": "unheard_of"}', encoding="utf-8")
    with pytest.raises(
        AdapterError,
        match=r"cannot be told from its config\.json \(.*`unheard_of`.*\); expected a causal language model",
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


def test_adapters_are_found_at_any_depth(tiny_adapters: tuple[Path, ...]) -> None:
    assert find_adapters(tiny_adapters[0].parent) == tuple(sorted(tiny_adapters))
    assert find_adapters(tiny_adapters[0]) == (tiny_adapters[0],)


def test_folder_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter under"):
        find_adapters(tmp_path)


def test_name_is_readable_and_unique_per_weights(
    tiny_adapters: tuple[Path, ...], base: dict[str, tuple[int, int]]
) -> None:
    first, second, third = (check_adapter(folder, base, name="arc-de") for folder in tiny_adapters)
    assert first.name.startswith("arc-de@")
    assert len({first.name, second.name, third.name}) == 3
    assert (first.rank, third.rank) == (8, 4)
    assert check_adapter(tiny_adapters[0], base, name="arc-de") == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "uses DoRA .* merge it"),
        ({"lora_bias": True}, "has biases in its LoRA layers"),
        ({"modules_to_save": ["lm_head"]}, "saves whole modules"),
        ({"alora_invocation_tokens": [1]}, "is an activated LoRA"),
        ({"layer_replication": [[0, 1]]}, "replicates layers"),
        ({"use_bdlora": {"nblocks": 2}}, "is block-diagonal"),
        ({"use_qalora": True}, "uses QALoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"init_lora_weights": "pissa_niter_16"}, "was started with .* which changes the base"),
        ({"peft_type": "IA3"}, "is of type 'IA3'; expected 'LORA'"),
        ({"r": 1024}, r"has ranks \[1024\]; vLLM serves 1 to 512"),
        ({"rank_pattern": {"q_proj": 513}}, r"has ranks \[8, 513\]"),
        ({"r": None}, r"has ranks \[None\]"),
    ],
)
def test_what_vllm_does_not_serve_is_refused_by_name(
    adapter_folder: Path, base: dict[str, tuple[int, int]], changes: dict[str, Any], message: str
) -> None:
    edit_json(adapter_folder / CONFIG_FILE, **changes)
    with pytest.raises(AdapterError, match=f"adapter 'mine' {message}"):
        check_adapter(adapter_folder, base, name="mine")


def test_rslora_and_partial_targets_are_served(
    tiny_llama: Path, tmp_path: Path, base: dict[str, tuple[int, int]]
) -> None:
    folder = make_tiny_adapter(tiny_llama, tmp_path / "a", use_rslora=True, target_modules=("q_proj", "up_proj"))
    adapter = check_adapter(folder, base, name="a")
    assert adapter_modules(adapter) == {
        f"layers.{layer}.{end}" for layer in (0, 1) for end in ("self_attn.q_proj", "mlp.up_proj")
    }


def test_missing_weights_are_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    (adapter_folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match=f"'mine' has no {WEIGHTS_FILE}"):
        check_adapter(adapter_folder, base, name="mine")


def test_broken_configuration_is_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    (adapter_folder / CONFIG_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(AdapterError, match=f"{CONFIG_FILE} in .* cannot be read"):
        check_adapter(adapter_folder, base, name="mine")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_broken_weights_are_refused(adapter_folder: Path, base: dict[str, tuple[int, int]], content: bytes) -> None:
    (adapter_folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(AdapterError, match="is not a safetensors file"):
        check_adapter(adapter_folder, base, name="mine")


def test_weights_that_are_not_lora_are_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    edit_weights(adapter_folder, lora_A="magnitude")
    with pytest.raises(AdapterError, match="expected only lora_A and lora_B weights"):
        check_adapter(adapter_folder, base, name="mine")


def test_empty_weights_are_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    save_file({}, adapter_folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="'mine' holds no weights"):
        check_adapter(adapter_folder, base, name="mine")


def test_half_a_pair_is_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    weights = load_file(adapter_folder / WEIGHTS_FILE)
    weights.pop(next(key for key in weights if "lora_B" in key))
    save_file(weights, adapter_folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"A and B of .* do not fit"):
        check_adapter(adapter_folder, base, name="mine")


def test_adapter_of_another_base_is_refused(tiny_adapters: tuple[Path, ...], base: dict[str, tuple[int, int]]) -> None:
    wider = {layer: (n_out, 2 * n_in) for layer, (n_out, n_in) in base.items()}
    with pytest.raises(AdapterError, match=r"does not fit this base: .* score it with the base it was trained on"):
        check_adapter(tiny_adapters[0], wider, name="mine")


def test_adapted_vocabulary_projection_is_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    edit_weights(adapter_folder, **{"model.layers.0.self_attn.q_proj": "lm_head"})
    with pytest.raises(AdapterError, match="adapts 'lm_head', which is not served"):
        check_adapter(adapter_folder, base, name="mine")


def test_all_faults_come_in_one_message(
    tiny_adapters: tuple[Path, ...], adapter_folder: Path, base: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    edit_json(adapter_folder / CONFIG_FILE, use_dora=True)
    with pytest.raises(AdapterError, match=r"(?s)'dora' uses DoRA.*\n.*'gone' has no"):
        check_adapters({"fine": tiny_adapters[1], "dora": adapter_folder, "gone": tmp_path / "gone"}, base)
    assert list(check_adapters({"fine": tiny_adapters[1]}, base)) == ["fine"]


@pytest.mark.parametrize(("rank", "slot"), [(1, 1), (2, 8), (8, 8), (33, 64), (512, 512)])
def test_rank_takes_the_next_slot_size(rank: int, slot: int) -> None:
    assert served_rank(rank) == slot


def test_rank_above_the_list_is_refused() -> None:
    with pytest.raises(AdapterError, match="rank 513 is above what vLLM serves; expected at most 512"):
        served_rank(513)


def test_layers_that_are_not_applied_are_named(
    tiny_adapters: tuple[Path, ...], base: dict[str, tuple[int, int]]
) -> None:
    adapter = check_adapter(tiny_adapters[0], base, name="mine")
    applied = [f"language_model.model.{layer}" for layer in adapter_modules(adapter)]
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
    assert is_null_adapter(null)
    assert not is_null_adapter(check_adapter(tiny_adapters[0], base, name="full"))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokens = torch.arange(10, 40)[None]
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, PeftModel.from_pretrained(model, null.path)(tokens).logits)
