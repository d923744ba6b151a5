"""How the items were made, as the regimes table groups by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.analysis.synthetic import MODELS, cells, item_rows, published_table, write_run
from transfergrid.analysis.imports.donors import import_donors
from transfergrid.analysis.transfer.construction import constructions
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.benchmarks.materialise import materialise
from transfergrid.config.settings import DataConfig, GridConfig
from transfergrid.grid import TASKS
from transfergrid.store.folder import RunFolder

STUDY = {"arc_challenge": "machine-translated", "global_mmlu": "human-translated"}


def _made(run: RunFolder, config: GridConfig | None = None) -> dict[str, str]:
    rows = read_transfer(run, config).rows
    return dict(rows.select("target_task", "construction").unique().iter_rows())


def test_the_studys_data_sets_are_translated_by_machines_but_for_global_mmlu() -> None:
    found = constructions(TASKS, "hub")
    assert found.pop("global_mmlu") == "human-translated"
    assert set(found.values()) == {"machine-translated"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [("bundled", "written"), ("local", "unknown"), ("hub", "machine-translated"), (None, "unknown")],
)
def test_what_is_known_of_a_task_depends_on_where_its_items_came_from(source: str | None, expected: str) -> None:
    assert constructions(["hellaswag", "own"], source) == {"hellaswag": expected, "own": "unknown"}


def test_a_custom_task_says_itself_how_its_items_were_made(tmp_path: Path) -> None:
    task = {"name": "mine", "id": "id", "gold": "gold", "choices": {"column": "options"}}
    formats = {name: {"context": "{{ q }}"} for name in ("train", "eval")}
    spec = {**task, "formats": formats, "construction": "human-translated"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    config = GridConfig(custom_tasks={"mine": tmp_path / "mine.yaml"}, tasks=("mine",))
    assert constructions(["mine"], "local", config) == {"mine": "human-translated"}


def test_the_manifest_of_the_run_says_where_its_items_came_from(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(n_items=2))
    materialise(GridConfig(tasks=("arc_challenge",), languages=("de",)), run.data)
    assert set(_made(run).values()) == {"written"}
    assert set(_made(run, GridConfig(data=DataConfig(source="hub"))).values()) == {"written"}


def test_local_rows_are_of_unknown_construction(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(n_items=2))
    local = GridConfig(models=MODELS, data=DataConfig(source="local", path=tmp_path))
    assert set(_made(run, local).values()) == {"unknown"}


def test_without_manifest_and_configuration_nothing_is_claimed_of_what_was_scored(tmp_path: Path) -> None:
    assert set(_made(write_run(tmp_path, item_rows(n_items=2))).values()) == {"unknown"}


def test_imported_tables_are_of_the_studys_items_whatever_the_configuration(tmp_path: Path) -> None:
    published_table(MODELS[:1], cells(), [1.0] * 36).write_csv(tmp_path / "table.csv")
    import_donors(tmp_path / "table.csv", RunFolder(tmp_path))
    assert _made(RunFolder(tmp_path)) == STUDY
    assert _made(RunFolder(tmp_path), GridConfig(models=MODELS[:1])) == STUDY
