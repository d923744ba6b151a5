"""Mixtures and merges as a configuration names them."""

from __future__ import annotations

from typing import Any

import pytest

from transfergrid.config.file import parse_config
from transfergrid.config.selection import Narrowing, select
from transfergrid.config.settings import GridConfig
from transfergrid.config.sources import Recipe
from transfergrid.config.text import render_config
from transfergrid.config.yaml_text import parse_yaml
from transfergrid.grid import UserError

SMALL = {"tasks": ["arc_challenge", "truthfulqa"], "languages": ["de", "en", "es"], "lora": {"r": 32}}
DE, EN, ES = (f"arc_challenge-{language}" for language in ("de", "en", "es"))


def config(**sources: Any) -> GridConfig:
    named = {name.replace("_", "-"): given for name, given in sources.items()}
    return parse_config({**SMALL, "sources": named}, origin="grid.yaml")


def cells(recipe: Recipe) -> str:
    return " ".join(cell.name for cell in recipe.source.cells)


def test_a_mixture_has_its_cells_and_a_merge_those_of_its_parts() -> None:
    mixture, merge = config(
        both={"merge_of": ["germanic", DE, ES], "method": "ties", "weights": [1, -0.5, 0.5]},
        germanic={"train_on": [DE, EN], "budget": "all"},
    ).recipes
    assert (mixture.source.kind, mixture.source.name, mixture.budget) == ("mixture", "germanic", "all")
    assert (cells(mixture), cells(merge)) == (f"{DE} {EN}", f"{DE} {EN} {ES}")
    assert merge.merge is not None
    assert (merge.merge.weights, merge.merge.density, merge.merge.rank(32)) == ((1, -0.5, 0.5), 0.5, 32)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ({"pairs_of": {"task": "arc_challenge"}}, ["mix-de-en", "mix-de-es", "mix-en-es"]),
        ({"pairs_of": {"language": "de"}}, ["mix-arc_challenge-truthfulqa"]),
        ({"leave_one_out": {"task": "truthfulqa"}}, ["mix-without-de", "mix-without-en", "mix-without-es"]),
        ({"all_languages_of": "arc_challenge"}, ["mix"]),
        ({"all_tasks_of": "es"}, ["mix"]),
    ],
)
@pytest.mark.parametrize("method", [None, "cat"])
def test_a_rule_makes_mixtures_or_with_a_method_merges(rule: dict[str, Any], names: list[str], method: str) -> None:
    recipes = config(mix=rule | ({"method": method} if method else {})).recipes
    assert [recipe.source.name for recipe in recipes] == names
    assert {recipe.source.kind for recipe in recipes} == {"merge" if method else "mixture"}
    if method:
        assert [" ".join(recipe.merge.parents) for recipe in recipes if recipe.merge] == list(map(cells, recipes))


def test_rules_name_their_cells() -> None:
    def made(**rule: Any) -> list[str]:
        return [cells(recipe).replace("arc_challenge-", "") for recipe in config(mix=rule).recipes]

    assert made(pairs_of={"task": "arc_challenge"}) == ["de en", "de es", "en es"]
    assert made(leave_one_out={"task": "arc_challenge"}) == ["en es", "de es", "de en"]
    assert made(leave_one_out={"language": "es"}) == ["truthfulqa-es", "es"]
    assert made(all_languages_of="arc_challenge") == ["de en es"]
    assert made(all_tasks_of="es") == ["es truthfulqa-es"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_on": []}, r"sources: mix: 'train_on' is empty; name at least one cell"),
        ({"train_on": ["arc_challenge-dee"]}, r"mix: unknown cell 'arc_challenge-dee'; expected one of .*did you mean"),
        ({"train_on": [DE, DE]}, r"mix: cell 'arc_challenge-de' stands there twice; name each once"),
        ({}, r"mix: expected exactly one of \['train_on', .*\], found none of them"),
        ({"train_on": [DE], "all_tasks_of": "de"}, r"found \['train_on', 'all_tasks_of'\]"),
        ({"train_on": [DE, EN], "method": "cat"}, r"'train_on' trains and 'method' merges; name the adapters"),
        (
            {"train_on": [DE, EN], "weights": [1, 1]},
            r"'weights' is for merges, and 'train_on' without a 'method' trains",
        ),
        ({"merge_of": [DE]}, r"'mix' merges 1 source\(s\); expected two or more"),
        ({"merge_of": [DE, "base"]}, r"unknown source 'base'; expected one of"),
        ({"merge_of": [DE, DE]}, r"source 'arc_challenge-de' stands there twice"),
        ({"merge_of": [DE, EN], "weights": [1]}, r"1 weight\(s\) for 2 adapters; give one weight for each"),
        ({"merge_of": [DE, EN], "weights": [1, 0]}, r"a weight of 0 leaves its adapter out"),
        ({"merge_of": [DE, EN], "weights": [1, True]}, r"weights.1: expected a number, not true"),
        ({"merge_of": [DE, EN], "weights": [1, float("inf")]}, r"weights.1: Input should be a finite number"),
        ({"merge_of": [DE, EN], "density": 0.5}, r"method 'linear' drops no weights and takes no 'density'"),
        ({"merge_of": [DE, EN], "density": 0, "method": "ties"}, r"density: Input should be greater than 0"),
        ({"merge_of": [DE, EN], "budget": "same"}, r"'budget' counts train items, and a merge has none"),
        (
            {"merge_of": [DE, EN], "method": "mean"},
            r"method: 'mean' is not accepted; expected one of \['linear', 'cat'",
        ),
        ({"pairs_of": {"task": "arc"}}, r"unknown task 'arc'; expected one of"),
        ({"pairs_of": {"task": "arc_challenge", "language": "de"}}, r"pairs_of has 2 keys; expected either 'task' or"),
        ({"pairs_of": {"cell": DE}}, r"pairs_of.*'cell'"),
        ({"all_languages_of": "de"}, r"unknown task 'de'"),
        ({"merge": [DE]}, r"sources.mix.merge: unknown key 'merge'; expected one of .*'merge_of'"),
    ],
)
def test_a_source_that_cannot_be_made_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(mix=given)


@pytest.mark.parametrize("name", ["arc_challenge-de", "base", "Mix", "a" * 101, "../x"])
def test_a_name_that_is_taken_or_no_files_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"(there is another source|source name) '.*'"):
        parse_config({**SMALL, "sources": {name: {"train_on": [DE, EN]}}}, origin="grid.yaml")


def test_a_merge_of_a_merge_and_a_name_made_twice_are_refused() -> None:
    with pytest.raises(UserError, match=r"two: unknown source 'one'"):
        config(one={"merge_of": [DE, EN]}, two={"merge_of": ["one", ES]})
    with pytest.raises(UserError, match=r"there is another source 'mix-de-en'"):
        config(mix={"pairs_of": {"task": "arc_challenge"}}, mix_de_en={"train_on": [DE, EN]})
    with pytest.raises(UserError, match=r"pairs_of needs two cells or more, and task 'arc_challenge' has one"):
        parse_config(
            {"languages": ["de"], "sources": {"mix": {"pairs_of": {"task": "arc_challenge"}}}}, origin="grid.yaml"
        )


def test_a_merge_above_the_engines_rank_is_refused() -> None:
    wide = {**SMALL, "lora": {"r": 256}, "sources": {"mix": {"merge_of": [DE, EN, ES], "method": "cat"}}}
    with pytest.raises(
        UserError, match=r"'cat' of 3 adapters of rank 256 has rank 768, and at most 512 is served; merge at most 2"
    ):
        parse_config(wide, origin="grid.yaml")


def test_sources_are_selected_like_cells_and_written_back() -> None:
    grid = config(romance_arc={"train_on": [EN, ES]}, pair={"pairs_of": {"language": "de"}, "method": "svd"})
    selection = select(grid, Narrowing(languages=("en", "es")))
    assert "romance-arc" in [source.name for source in selection.sources]
    assert [source.kind for source in select(grid, Narrowing(sources=("pair-arc_challenge-truthfulqa",))).sources] == [
        "merge"
    ]
    assert parse_config(parse_yaml(render_config(grid, "x"), "x"), origin="x") == grid
