"""Narrowing of the grid."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from tests.engine.sweeps import small_config
from transfergrid.config.selection import Narrowing, Selection, select
from transfergrid.config.settings import GridConfig
from transfergrid.engine.work.failures import Failure, is_about
from transfergrid.grid import Cell, Source, UserError


@pytest.fixture
def config() -> GridConfig:
    return small_config(Path("model"), seeds=(17, 42))


def cells_of(selection: Selection) -> tuple[Cell, ...]:
    return tuple(source.cell for source in selection.sources if source.cell is not None)


def test_no_narrowing_selects_everything(config: GridConfig) -> None:
    selection = select(config, Narrowing())
    assert [source.name for source in selection.sources] == ["base", *(cell.name for cell in config.grid.cells)]
    assert (selection.targets, selection.seeds, selection.has_base) == (config.grid.cells, (17, 42), True)


def test_task_and_language_narrow_sources_and_targets_but_keep_the_base(config: GridConfig) -> None:
    selection = select(config, Narrowing(tasks=("arc_challenge",), languages=("de",)))
    assert [source.name for source in selection.sources] == ["base", "arc_challenge-de"]
    assert selection.targets == (Cell("arc_challenge", "de"),)


def test_what_is_named_twice_is_selected_once(config: GridConfig) -> None:
    cell = "global_mmlu-en"
    once = Narrowing(
        models=("tiny",), seeds=(42,), tasks=("global_mmlu",), languages=("en",), sources=(cell,), targets=(cell,)
    )
    twice = Narrowing(**{name: 2 * asked for name, asked in asdict(once).items()})
    assert select(config, twice) == select(config, once)
    assert select(config, Narrowing(seeds=(42, 17, 42))).seeds == (42, 17)


def test_named_sources_leave_the_base_out(config: GridConfig) -> None:
    selection = select(config, Narrowing(sources=("global_mmlu-en",)))
    assert (selection.has_base, cells_of(selection)) == (False, (Cell("global_mmlu", "en"),))
    assert len(selection.targets) == 4


def test_foreign_cells_take_the_place_of_the_grids_sources(config: GridConfig) -> None:
    cells = (Cell("xnli", "sw"), Cell("arc_challenge", "de"))
    assert cells_of(select(config, Narrowing(), sources=[Source.of(cell) for cell in cells])) == cells
    assert (
        cells_of(select(config, Narrowing(languages=("de",)), sources=[Source.of(cell) for cell in cells])) == cells[1:]
    )


@pytest.mark.parametrize(
    ("narrowing", "message"),
    [
        (Narrowing(tasks=("arc",)), r"unknown task 'arc'; expected one of .*did you mean 'arc_challenge'\?"),
        (Narrowing(languages=("xx",)), "unknown language 'xx'"),
        (Narrowing(seeds=(7,)), r"unknown seed 7; expected one of \[17, 42\]"),
        (Narrowing(models=("big",)), r"unknown model 'big'; expected one of \['tiny'\]"),
        (Narrowing(sources=("arc_challenge-fr",)), "unknown source 'arc_challenge-fr'"),
        (Narrowing(targets=("base",)), "unknown target 'base'"),
        (Narrowing(languages=("de",), targets=("arc_challenge-en",)), "leave no source or no target"),
    ],
)
def test_a_name_outside_of_the_grid_is_refused(config: GridConfig, narrowing: Narrowing, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(config, narrowing)


@pytest.mark.parametrize(
    ("failure", "is_covered"),
    [
        (Failure(model="tiny", reason="r"), True),
        (Failure(model="other", reason="r"), False),
        (Failure(model="tiny", seed=17, source="arc_challenge-de", reason="r"), True),
        (Failure(model="tiny", seed=42, source="arc_challenge-de", reason="r"), False),
        (Failure(model="tiny", seed=17, source="arc_challenge-en", reason="r"), False),
        (Failure(model="tiny", seed=17, source="arc_challenge-de", target="global_mmlu-en", reason="r"), False),
    ],
)
def test_failures_of_what_is_asked_are_told_apart(config: GridConfig, failure: Failure, is_covered: bool) -> None:
    selection = select(config, Narrowing(seeds=(17,), languages=("de",)))
    assert is_about(selection, failure) is is_covered
