"""Adapters are checked before anything is loaded, named by content, and refused with a way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import edit_json, make_tiny_adapter
from transfergrid.engine.adapters.check import check_adapter, check_adapters, served_rank
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.interfaces import AdapterError
from transfergrid.store.files import hash_files


def test_name_is_readable_and_unique_per_weights(
    tiny_adapters: tuple[Path, ...], base: dict[str, tuple[int, int]]
) -> None:
    first, second, third = (check_adapter(folder, base, name="arc-de") for folder in tiny_adapters)
    assert first.name.startswith("arc-de@")
    assert len({first.name, second.name, third.name}) == 3
    assert (first.rank, third.rank) == (8, 4)
    assert check_adapter(tiny_adapters[0], base, name="arc-de") == first
    assert first.content_hash == hash_files([tiny_adapters[0] / CONFIG_FILE, tiny_adapters[0] / WEIGHTS_FILE])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, r"uses DoRA \(use_dora=True\), which is not served; 'grid eval --sequential' scores it"),
        ({"lora_bias": True}, "has biases in its LoRA layers"),
        ({"modules_to_save": ["lm_head"]}, "saves whole modules"),
        ({"alora_invocation_tokens": [1]}, "is an activated LoRA .*; train a plain LoRA"),
        ({"layer_replication": [[0, 1]]}, "replicates layers"),
        ({"use_bdlora": {"nblocks": 2}}, "is block-diagonal"),
        ({"use_qalora": True}, "uses QALoRA"),
        ({"trainable_token_indices": [1]}, "trains tokens of the vocabulary .* --sequential"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "adapts bare parameters, as of experts .* --sequential"),
        ({"kasa_config": {"a": 1}}, "uses KaSA"),
        ({"bias": "all"}, "trains biases"),
        (
            {"init_lora_weights": "pissa_niter_16"},
            "was started with .* which changes the base.* 'grid convert-adapter'",
        ),
        ({"init_lora_weights": "unheard_of"}, "was started with init_lora_weights='unheard_of', which changes"),
        ({"peft_type": "IA3"}, "is of type 'IA3'; expected 'LORA'; 'grid eval --sequential'"),
        ({"peft_type": "PREFIX_TUNING"}, "is of type 'PREFIX_TUNING'; expected 'LORA'; it changes no weights"),
        ({"peft_type": None}, r"is of type None; expected 'LORA'; if another library wrote it \(mlx"),
        ({"r": 1024}, "has r=1024; expected a whole number from 1 to 512"),
        ({"r": 8.0}, r"has r=8\.0; expected a whole number from 1 to 512"),
        ({"r": True}, "has r=True; expected a whole number"),
        ({"r": None}, "has r=None; expected a whole number"),
        ({"rank_pattern": {"q_proj": 513}}, "has in rank_pattern q_proj=513; expected a whole number"),
        ({"rank_pattern": [1]}, r"has rank_pattern=\[1\]; expected names of layers with a number each"),
        ({"rank_pattern": {"(": 8}}, "has a pattern that is no regular expression"),
        ({"layers_pattern": "(?P<idx>a)"}, "has a pattern that is no regular expression: redefinition of group name"),
        ({"alpha_pattern": {"q_proj": "16"}}, "has in alpha_pattern q_proj='16'; expected a number"),
        ({"lora_alpha": None}, "has lora_alpha=None; expected a number, not 0"),
        ({"lora_alpha": "16"}, "has lora_alpha='16'; expected a number, not 0"),
        ({"lora_alpha": float("nan")}, "has lora_alpha=nan; expected a number, not 0"),
        ({"use_rslora": "false"}, "has use_rslora='false'; expected true or false"),
        ({"target_modules": None}, "has target_modules=None; expected a list of names of layers"),
        ({"layers_to_transform": ["1"]}, r"has layers_to_transform=\['1'\]; expected numbers of layers"),
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
    assert adapter.layers == {
        f"layers.{layer}.{end}" for layer in (0, 1) for end in ("self_attn.q_proj", "mlp.up_proj")
    }


def test_empty_weights_are_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    save_file({}, adapter_folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="'mine' holds no weights"):
        check_adapter(adapter_folder, base, name="mine")


def test_half_a_pair_is_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    weights = load_file(adapter_folder / WEIGHTS_FILE)
    weights.pop(next(key for key in weights if "lora_B" in key))
    save_file(weights, adapter_folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"holds '.*lora_A\.weight' without its other half; save it again"):
        check_adapter(adapter_folder, base, name="mine")


def test_adapter_of_another_base_is_refused(tiny_adapters: tuple[Path, ...], base: dict[str, tuple[int, int]]) -> None:
    wider = {layer: (n_out, 2 * n_in) for layer, (n_out, n_in) in base.items()}
    with pytest.raises(AdapterError, match=r"does not fit this base: .* score it with the base it was trained on"):
        check_adapter(tiny_adapters[0], wider, name="mine")


@pytest.mark.parametrize(
    ("key", "way_out"),
    [
        ("base_model.model.lm_head.lora_A.weight", "--sequential"),
        ("base_model.model.lm_head.base_layer.weight", "--sequential"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "--sequential"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "--sequential"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "--sequential"),
        ("base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight", "--sequential"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "grid convert-adapter"),
        ("base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_A.weight", "grid convert-adapter"),
        ("module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "grid convert-adapter"),
        ("base_model.model.layers.0.self_attn.q_proj.lora_A.weight", "grid convert-adapter"),
        ("model.layers.0.self_attn.q_proj.lora_a", "grid convert-adapter"),
        ("layers.0.attn.q_proj.lora_a.weight", "grid convert-adapter"),
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", "a base of another build, such as GPT-2"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora.weight", "save it with peft"),
    ],
)
def test_a_key_that_is_not_served_is_named_beside_one_that_is_with_the_way_out(
    adapter_folder: Path, base: dict[str, tuple[int, int]], key: str, way_out: str
) -> None:
    save_file({**load_file(adapter_folder / WEIGHTS_FILE), key: torch.ones(8, 128)}, adapter_folder / WEIGHTS_FILE)
    expected = r"'base_model\.model\.model\.layers\.0\..*_proj\.lora_A\.weight'"
    message = rf"adapter 'mine' holds '{re.escape(key)}'; expected keys such as {expected}; .*{way_out}"
    with pytest.raises(AdapterError, match=message):
        check_adapter(adapter_folder, base, name="mine")


def test_a_layer_named_twice_is_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    weights = load_file(adapter_folder / WEIGHTS_FILE)
    key = next(iter(weights))
    save_file({**weights, key.removeprefix("base_model.model."): weights[key].clone()}, adapter_folder / WEIGHTS_FILE)
    with pytest.raises(
        AdapterError, match=r"adapter 'mine' holds 'model\.layers\..*' twice: '.*' and '.*'; remove one"
    ):
        check_adapter(adapter_folder, base, name="mine")


@pytest.mark.parametrize(
    "changes",
    [{"r": 16}, {"r": 4}, {"rank_pattern": {"q_proj": 4}}, {"rank_pattern": {r"layers\.1\.mlp\.up_proj": 16}}],
)
def test_ranks_that_are_not_those_of_the_configuration_are_refused(
    adapter_folder: Path, base: dict[str, tuple[int, int]], changes: dict[str, Any]
) -> None:
    edit_json(adapter_folder / CONFIG_FILE, **changes)
    message = r"A of 'model\.layers.*' has 8 rows and B 8 columns, and its configuration says rank (16|4); correct r or"
    with pytest.raises(AdapterError, match=message):
        check_adapter(adapter_folder, base, name="mine")


def test_a_lost_rank_pattern_is_refused_and_a_kept_one_served(
    tiny_llama: Path, tmp_path: Path, base: dict[str, tuple[int, int]]
) -> None:
    pattern = {"down_proj": 4, r"layers\.1\..*_proj": 16}  # peft sorts it, and the first match counts
    folder = make_tiny_adapter(tiny_llama, tmp_path / "a", rank_pattern=pattern, alpha_pattern={"k_proj": 3})
    assert check_adapter(folder, base, name="a").rank == 16
    edit_json(folder / CONFIG_FILE, rank_pattern={})
    with pytest.raises(AdapterError, match="its configuration says rank 8; correct r or rank_pattern"):
        check_adapter(folder, base, name="a")


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": r".*\.layers\.0\..*"},
        {"exclude_modules": ["up_proj"]},
        {"layers_to_transform": [1]},
    ],
)
def test_a_layer_that_peft_would_drop_is_refused(
    adapter_folder: Path, base: dict[str, tuple[int, int]], changes: dict[str, Any]
) -> None:
    edit_json(adapter_folder / CONFIG_FILE, **changes)
    with pytest.raises(
        AdapterError, match=r"holds 'model\..*', which its configuration leaves out .*peft would drop it"
    ):
        check_adapter(adapter_folder, base, name="mine")


def test_a_matrix_of_another_shape_is_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    weights = load_file(adapter_folder / WEIGHTS_FILE)
    save_file({key: value.flatten() for key, value in weights.items()}, adapter_folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"A and B of '.*' have the shapes \(\d+,\) and .*; expected matrices"):
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
