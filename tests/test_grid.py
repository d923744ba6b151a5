"""Cells, sources, regimes and run folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfergrid.grid import BASE, LANGUAGES, TASKS, Cell, Grid, Regime, Source, UserError, regime_of
from transfergrid.store.folder import RunFolder


def test_the_full_grid_has_the_regime_counts_of_the_study() -> None:
    assert Grid().regime_counts() == {Regime.MT_ML: 44, Regime.MT_CL: 440, Regime.CT_ML: 132, Regime.CT_CL: 1320}


def test_the_full_grid_has_forty_five_sources_and_forty_four_targets() -> None:
    grid = Grid()
    assert (len(grid.sources), len(grid.cells), sum(1 for _ in grid.entries())) == (45, 44, 45 * 44)
    assert grid.sources[0] is BASE


@given(
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, unique=True),
    languages=st.lists(st.sampled_from(LANGUAGES), min_size=1, unique=True),
)
def test_any_subset_of_tasks_and_languages_counts_its_regimes_right(tasks: list[str], languages: list[str]) -> None:
    grid = Grid(tuple(tasks), tuple(languages))
    counted = Counter(regime_of(s.cell, t) for s, t in grid.entries() if s.cell is not None)
    assert {regime: counted[regime] for regime in Regime} == grid.regime_counts()
    assert len({cell.name for cell in grid.cells}) == len(grid.cells)
    assert all(Source.parse(source.name) == source for source in grid.sources)


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


def test_an_adapter_has_a_folder_per_model_seed_and_cell() -> None:
    run = RunFolder(Path("r"))
    assert run.adapter("m", 17, Cell("arc_challenge", "de")) == Path("r/adapters/m/s17/arc_challenge-de")
