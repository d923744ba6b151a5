"""Cells, sources, regimes and run folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfergrid.grid import (
    BASE,
    IN_MIX,
    LANGUAGES,
    TASKS,
    Cell,
    Grid,
    Regime,
    Source,
    UserError,
    regime_by_kind,
    regime_of,
    regime_of_several,
)
from transfergrid.store.folder import RunFolder


def test_the_full_grid_has_the_regime_counts_of_the_study() -> None:
    counted = Counter(regime_of(source, target) for source in Grid().cells for target in Grid().cells)
    assert counted == {Regime.MT_ML: 44, Regime.MT_CL: 440, Regime.CT_ML: 132, Regime.CT_CL: 1320}


def test_the_full_grid_has_forty_five_sources_and_forty_four_targets() -> None:
    grid = Grid()
    assert (len(grid.cells), grid.every_language) == (44, LANGUAGES)
    assert grid.source_cells == grid.cells
    assert len(grid.pairs) == 44 * 43


@given(
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, unique=True),
    languages=st.lists(st.sampled_from(LANGUAGES), min_size=1, unique=True),
)
def test_any_subset_of_tasks_and_languages_has_its_cells_and_sources(tasks: list[str], languages: list[str]) -> None:
    grid = Grid(tuple(tasks), tuple(languages))
    assert len({cell.name for cell in grid.cells}) == len(tasks) * len(languages)
    assert all(Source.parse(source.name) == source for source in (BASE, *map(Source.of, grid.cells)))


@pytest.mark.parametrize("name", ["arc_challenge-de", "my_task2-zh_hant"])
def test_a_cell_survives_its_name(name: str) -> None:
    assert Cell.parse(name).name == name
    assert str(Cell.parse(name)) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arc_challenge", r"'arc_challenge' is not a cell; expected 'task-lang'"),
        ("Arc-de", r"task name 'Arc' is not usable"),
        ("../x-de", r"task name '../x' is not usable"),
        ("arc-DE", r"language code 'DE' is not usable"),
    ],
)
def test_an_unusable_cell_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cell.parse(name)


@pytest.mark.parametrize(
    ("tasks", "languages", "message"),
    [
        ((), ("de",), "the grid has no task"),
        (("a",), (), "the grid has no language"),
        (("a", "a"), ("de",), "task 'a' is named twice"),
        (("a",), ("de", "de"), "language 'de' is named twice"),
    ],
)
def test_an_empty_or_repeated_axis_is_refused(tasks: tuple[str, ...], languages: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Grid(tasks, languages)


def test_the_base_has_no_regime_and_a_cells_adapter_that_of_its_cell() -> None:
    de, en = Cell("arc", "de"), Cell("arc", "en")
    assert BASE.regime(de) is None
    assert [Source.of(de).regime(target) for target in (de, en, Cell("mmlu", "de"), Cell("mmlu", "en"))] == list(Regime)


@pytest.mark.parametrize(
    ("cells", "target", "regime"),
    [
        ("a-de b-en", "a-de", IN_MIX),
        ("a-de b-en", "a-fr", "MT-CL"),
        ("a-de b-en", "a-en", "MT-CL"),  # CT-ML to b-en, but a matched task is nearer
        ("a-de b-en", "c-en", "CT-ML"),
        ("a-de b-en", "c-fr", "CT-CL"),
    ],
)
def test_several_cells_have_the_nearest_relation_of_any(cells: str, target: str, regime: str) -> None:
    assert regime_of_several([Cell.parse(name) for name in cells.split()], Cell.parse(target)) == regime


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            ("blend", "a-de", (Cell("a", "de"),)),
            r"unknown kind 'blend'; expected one of \['base', 'cell', 'merge', 'mixture', 'variant'\]",
        ),
        (("mixture", "mine", ()), r"source 'mine' has 0 cells; kind 'mixture' has at least one"),
        (
            ("mixture", "mine", (Cell("a", "de"), Cell("a", "de"))),
            r"source 'mine' names a cell twice in \['a-de', 'a-de'\]",
        ),
        (("mixture", "a-de", (Cell("a", "de"),)), r"source name 'a-de' is not usable for kind 'mixture'"),
        (("mixture", "hellaswag-de", (Cell("a", "de"),)), r"source name 'hellaswag-de' is not usable for kind"),
        (("merge", "base", (Cell("a", "de"),)), r"source name 'base' is not usable for kind 'merge'"),
        (("cell", "a.de", (Cell("a", "de"),)), r"source name 'a.de' is not usable; expected at most 100"),
        (("cell", "a-de", ()), r"source 'a-de' has 0 cells; kind 'cell' has one"),
        (("cell", "a-en", (Cell("a", "de"),)), r"source name 'a-en' is not usable for kind 'cell'"),
        (("cell", "mine", (Cell("a", "de"),)), r"source name 'mine' is not usable for kind 'cell'"),
        (("cell", "a-de", (Cell("a", "de"),), 1, "r8"), r"source name 'a-de' is not usable for kind 'cell'"),
        (("base", "mine"), r"source name 'mine' is not usable for kind 'base'"),
        (("cell", "a-de@r8", (Cell("a", "de"),), 1, "r8"), r"source name 'a-de@r8' is not usable for kind 'cell'"),
        (("variant", "a-de", (Cell("a", "de"),)), r"'a-de' is not usable .* 'NAME@VARIANT' a variant"),
        (
            ("variant", "a-de@r8", (Cell("a", "de"),), 1, "r4"),
            r"source name 'a-de@r8' is not usable for kind 'variant'",
        ),
    ],
)
def test_a_source_whose_name_could_be_mistaken_is_refused(source: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Source(*source)


def test_an_unknown_kind_in_a_store_is_refused() -> None:
    with pytest.raises(UserError, match=r"'blend' is no kind of source that this version knows"):
        regime_by_kind("blend", [], Cell("a", "de"))


def test_a_mixture_may_be_named_like_a_cell_of_an_unknown_task() -> None:
    assert (
        Source("mixture", "romance-arc", (Cell("arc_challenge", "es"),)).regime(Cell("arc_challenge", "fr")) == "MT-CL"
    )


def test_a_variant_is_in_no_single_source_table() -> None:
    variant = Source("cell", "a-de-r8", (Cell("a", "de"),), 17, "r8")
    assert (variant.cell, variant.regime(Cell("a", "en"))) == (None, "MT-CL")
    own = Source("variant", "a-de@r8", (Cell("a", "de"),), 17, "r8")
    assert (own.cell, own.main_name, own.regime(Cell("a", "de"))) == (None, "a-de", "MT-ML")
    assert (
        Source("variant", "both@r8", (Cell("a", "de"), Cell("a", "en")), 17, "r8").regime(Cell("a", "de")) == "IN-MIX"
    )


def test_an_adapter_has_a_folder_per_model_seed_and_cell() -> None:
    run = RunFolder(Path("r"))
    assert run.adapter("m", 17, Cell("arc_challenge", "de")) == Path("r/adapters/m/s17/arc_challenge-de")


def test_control_characters_in_a_sentence_are_shown_as_escapes() -> None:
    assert str(UserError("no \x1b[31m'a\x00b'\nexpected é")) == "no \\x1b[31m'a\\x00b'\nexpected é"
