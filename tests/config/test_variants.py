"""Variants of the recipe as a configuration names them."""

from __future__ import annotations

from typing import Any

import pytest

from transfergrid.config.file import parse_config
from transfergrid.config.selection import Narrowing, select
from transfergrid.config.settings import GridConfig
from transfergrid.config.text import render_config
from transfergrid.config.yaml_text import parse_yaml
from transfergrid.grid import UserError

DE, EN = "arc_challenge-de", "arc_challenge-en"
SMALL = {
    "tasks": ["arc_challenge"],
    "languages": ["de", "en"],
    "lora": {"r": 16, "alpha": 64},
    "sources": {"both": {"train_on": [DE, EN], "budget": "all"}, "merged": {"merge_of": [DE, EN]}},
}
R8 = {"lora": {"r": 8}}


def config(**variants: Any) -> GridConfig:
    return parse_config({**SMALL, "variants": variants}, origin="grid.yaml")


def test_a_variant_is_of_every_cell_or_of_what_it_names_and_changes_what_it_gives() -> None:
    found = config(r8=R8, matched={"prompts": {"train_format": "eval"}, "training": {"epochs": 1}, "of": [DE, "both"]})
    variants = [recipe for recipe in found.recipes if recipe.source.variant]
    assert [each.source.name for each in variants] == [f"{DE}@r8", f"{EN}@r8", f"{DE}@matched", "both@matched"]
    assert {each.source.kind for each in variants} == {"variant"}
    assert (variants[-1].budget, variants[-1].source.variant) == ("all", "matched")
    small, matched = found.of("r8"), found.of("matched")
    assert (small.lora.r, small.lora.alpha, small.training, small.prompts) == (8, 64, found.training, found.prompts)
    assert (matched.lora, matched.training.epochs, matched.prompts.train_format) == (found.lora, 1, "eval")
    assert found.of("") is found
    assert matched.of("matched") == matched
    chosen = select(found, Narrowing(sources=(f"{DE}@r8",))).sources
    assert [source.name for source in chosen] == [f"{DE}@r8"]


def test_a_variant_that_gives_a_default_is_written_and_read_back() -> None:
    found = config(r32={"lora": {"r": 32}}, r8=R8)  # 32 is the default, and not what this configuration has
    assert found.of("r32").lora.r == 32
    assert parse_config(parse_yaml(render_config(found, "head"), "text"), origin="text") == found
    assert found.model_dump(mode="json")["variants"] == {"r32": {"lora": {"r": 32}}, "r8": R8}
    again = parse_config(found.model_dump(mode="json"), origin="text")
    assert (again.of("r32"), again.of("r8").lora) == (found.of("r32"), found.of("r8").lora)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"r8": {}}, r"variants: r8: it trains as 'main' does; change 'lora', 'training' or 'prompts'"),
        ({"x": {"training": {"gradient_checkpointing": True}}}, r"x: it trains as 'main' does"),
        ({"r8": R8, "small": R8}, r"variants: small: it trains as 'r8' does"),
        ({"main": R8}, r"main: the name is not usable; expected at most 20 lower-case letters, .* and not 'main'"),
        ({"R8": R8}, r"R8: the name is not usable"),
        ({"r8": {"lora": {"r": 0}}}, r"variants.r8.lora.r: Input should be greater than or equal to 1, not 0"),
        ({"r8": {"lora": {"rank": 8}}}, r"variants.r8.lora.rank: unknown key 'rank'; expected one of \['alpha'"),
        ({"r8": {"prompts": {"shots": 3}}}, r"unknown key 'shots'; expected one of \['train_chat_template', 'train_"),
        ({"x": {"training": {"dtype": "float32"}}}, r"x: training.dtype is the base's, which all variants share"),
        ({"x": {"training": {"max_length": {"y": 9}}}}, r"x: training.max_length names the unknown task 'y'"),
        ({"r8": R8 | {"of": []}}, r"r8: 'of' is empty; name cells or mixtures"),
        ({"r8": R8 | {"of": ["merged"]}}, r"r8: unknown source 'merged' in 'of'; expected some of .*, 'both'\]"),
        ({"r8": R8 | {"of": [DE, DE]}}, rf"r8: source '{DE}' stands in 'of' twice; name each once"),
        (
            {"x": {"training": {"method": "full"}, "lora": {"r": 8}}},
            r"x: training.method 'full' .* reads nothing of 'lora'",
        ),
        ({"x": {"training": {"method": "all"}}}, r"variants.x.training.method: 'all' is not accepted; expected one of"),
        ({"a": {}, "b": R8 | {"of": []}}, r"a: it trains as 'main' does.*; b: 'of' is empty"),
    ],
)
def test_every_fault_is_one_sentence(variants: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**variants)


def test_a_full_fine_tune_is_a_variant_and_reads_no_shape_of_adapters() -> None:
    full = {"training": {"method": "full"}}
    found = config(full=full, slow={"training": {"method": "full", "learning_rate": 1e-5}})
    assert found.of("full").training.method == "full"
    with pytest.raises(UserError, match=r"variants: again: it trains as 'full' does"):
        config(full=full, again=full)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"method": "full"}}, r"training: method 'full' makes no adapters, and 'sources' merges some"),
        (
            {"training": {"method": "full", "quantization": "4bit"}, "sources": {}},
            r"training: method 'full' trains what quantization '4bit' freezes; drop one of them",
        ),
        (
            {"training": {"quantization": "4bit"}, "variants": {"full": {"training": {"method": "full"}}}},
            r"variants: full: method 'full' trains what quantization '4bit' freezes",
        ),
    ],
)
def test_full_fine_tuning_of_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config({**SMALL, **changes}, origin="grid.yaml")


def test_no_variant_is_trained_on_a_task_that_is_only_a_target() -> None:
    tasks = ["arc_challenge", {"lm_eval": "xnli_{language}", "train": False}]
    found = parse_config({**SMALL, "tasks": tasks, "variants": {"r8": R8}}, origin="grid.yaml")
    assert [each.source.name for each in found.recipes if each.source.variant] == [f"{DE}@r8", f"{EN}@r8"]
