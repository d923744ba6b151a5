"""Layers, ranks and scales are told by peft's own rules."""

from __future__ import annotations

import math
from typing import Any

import pytest

from transfergrid.engine.adapters.lora_config import read_lora_config
from transfergrid.engine.interfaces import AdapterError

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}

MODULES = [
    f"{prefix}layers.{layer}.{end}"
    for prefix in ("model.", "model.language_model.")
    for layer in (0, 1, 10, 11)
    for end in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "mlp.experts.1.up_proj")
]


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["model.layers.1.self_attn.q_proj"]},
        {"target_modules": ["proj"]},
        {"target_modules": r".*\.layers\.1.*\.(q|k)_proj"},
        {"target_modules": "q_proj"},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1, 10]},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["blocks", "layers"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "blocks"},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*\.1\..*"},
        {"rank_pattern": {"q_proj": 4, r"layers\.1\..*": 16}, "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3}},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 4}, "alpha_pattern": {"proj": 99, "k_proj": 2}},
        {"use_rslora": True, "rank_pattern": {"k_proj": 2}},
    ],
)
def test_layers_ranks_and_scales_are_pefts(changes: dict[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    raw = {"peft_type": "LORA", "r": 8, "lora_alpha": 24, "target_modules": ["q_proj"], **changes}
    ours, theirs = read_lora_config(raw, "a"), LoraConfig(**{**raw, "peft_type": None})
    for module in MODULES:
        rank = theirs.rank_pattern.get(get_pattern_key(theirs.rank_pattern.keys(), module), theirs.r)
        alpha = theirs.alpha_pattern.get(get_pattern_key(theirs.alpha_pattern.keys(), module), theirs.lora_alpha)
        assert ours.is_target(module) == bool(check_target_module_exists(theirs, module)), module
        assert ours.rank_of(module) == rank
        assert ours.scale_of(module) == alpha / (math.sqrt(rank) if theirs.use_rslora else rank)


def test_all_linear_takes_every_layer() -> None:
    raw = {"peft_type": "LORA", "r": 8, "lora_alpha": 24, "target_modules": "all-linear"}
    assert all(map(read_lora_config(raw, "a").is_target, MODULES))


@pytest.mark.parametrize(
    "pattern",
    [
        r"(.*)*x",
        r"((\w|\.)+)+x",
        "(a?){50}a{50}",
        r"(.|\w)*x",
        r".*.*.*.*.*x",
        r"(?=(.*)*x)a",
        "x" * 10_001,
        "(?:" * 90 + ")?" * 90,
    ],
)
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "layers_pattern", "rank_pattern"])
def test_a_pattern_that_may_take_for_ever_is_refused(pattern: str, key: str) -> None:
    value = {pattern: 8} if key == "rank_pattern" else pattern
    with pytest.raises(
        AdapterError, match=r"'mine' has a pattern that may take for ever to match .*; expected names of"
    ):
        read_lora_config({**CONFIG, key: value}, "mine")


def test_patterns_as_libraries_write_them_are_read() -> None:
    # of the kind that fine-tuning libraries write for models of text and images
    parts, layers = (
        "(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)",
        "(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2)",
    )
    pattern = rf"(?:.*?(?:language|text).*?{parts}.*?{layers}.*?)|(?:\bmodel\.layers\.[\d]{{1,}}\.{parts}\.{layers})"
    config = read_lora_config({**CONFIG, "target_modules": pattern}, "mine")
    assert config.is_target("model.layers.10.self_attn.q_proj")
    assert config.is_target("model.language_model.layers.10.self_attn.q_proj")
    assert not config.is_target("model.layers.10.self_attn.o_proj")


def test_a_pattern_that_matches_without_the_number_of_a_layer_chooses_none() -> None:
    config = read_lora_config({**CONFIG, "layers_to_transform": [0], "layers_pattern": "model|x"}, "mine")
    assert not config.is_target("model.layers.0.self_attn.q_proj")
