"""Imports go one way, room by room; heavy packages load only where they are needed; files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from transfergrid.perf import house

GROUND = {"grid", "wording"}
STORED = {*GROUND, "store"}
CONFIGURED = {*STORED, "config"}
ASKED = {*CONFIGURED, "benchmarks", "benchmarks/harness"}
SHARED = {*ASKED, "engine.interfaces"}
MODELS = {*SHARED, "engine/models"}
ADAPTERS = {*MODELS, "engine/adapters"}
PLANNED = {*MODELS, "engine/planning"}
WORKERS = {*PLANNED, "engine/workers"}
SCORERS = {*WORKERS, "engine/adapters", "engine/scorers"}
WORK = {*PLANNED, "engine/adapters", "engine/work"}
CLUSTER = {*GROUND, "store", "config", "engine.interfaces", "engine/cluster"}
ENGINE = {*SCORERS, *WORK, *CLUSTER, "engine/server", "engine/evaluation"}
TRAINERS = {*ADAPTERS, *CLUSTER, "engine/planning", "interrupts"}
RECORDS = {*ASKED, "analysis.arrays", "analysis.records", "analysis.threads"}
STATISTICS = {*RECORDS, "analysis/statistics", "analysis/mixing"}
GRADED = {*STATISTICS, "analysis/graded"}
TRANSFER = {*GRADED, "analysis/transfer"}
TABLES = {*TRANSFER, "analysis/tables"}
CHARTS = {*TABLES, "analysis/charts"}
ANALYSIS = {*CHARTS, "analysis/terminal", "analysis/report", "analysis/imports"}

ALLOWED: dict[str, set[str]] = {
    "grid": set(),
    "wording": set(),
    "interrupts": set(),
    "store": GROUND,
    "config": STORED,
    "benchmarks": ASKED,
    "benchmarks/harness": ASKED,
    "engine.interfaces": ASKED,
    "engine/models": SHARED,
    "engine/adapters": MODELS,
    "engine/planning": MODELS,
    "engine/workers": PLANNED,
    "engine/scorers": {*SCORERS},
    "engine/server": SCORERS,
    "engine/work": {*WORK},
    "engine/cluster": CLUSTER,
    "engine/evaluation": ENGINE,
    "engine/harness": {*ENGINE},
    "engine": ENGINE,
    "trainers/sft": {*TRAINERS, "trainers"},
    "trainers/sources": {*TRAINERS, "trainers"},
    "trainers": {*TRAINERS, "trainers", "trainers/sft", "trainers/sources"},
    "analysis.arrays": set(),
    "analysis.records": {*ASKED, "analysis.arrays"},
    "analysis.threads": ASKED,
    "analysis/statistics": RECORDS,
    "analysis/mixing": RECORDS,
    "analysis/graded": STATISTICS,
    "analysis/transfer": GRADED,
    "analysis/tables": TRANSFER,
    "analysis/terminal": TABLES,
    "analysis/charts": TABLES,
    "analysis/report": CHARTS,
    "analysis/imports": TRANSFER,
    "analysis": {"analysis", *ANALYSIS},
    "commands/display": {*ENGINE, "trainers"},
    "commands/interchange": {"commands", "engine/harness", *ENGINE, *ANALYSIS},
    "view": {*ANALYSIS, "analysis", "engine/work"},
    "commands": {"view", "commands", "commands/display", "analysis", "engine", "trainers", *ENGINE, *ANALYSIS},
    "cli": {"commands", "commands/interchange", "grid"},
}
"""Rooms that a room's modules may import from, beside its own."""

HEAVY = {"torch", "vllm", "transformers", "trl", "peft", "datasets", "ray"}


def _room(module: str) -> str:
    """Return the room of the table above: a folder, or a single module that the table names."""
    if module in ALLOWED:
        return module
    folder = house.module_paths()[module].relative_to(house.ROOT).parent.as_posix()
    return module if folder == "." else folder


@pytest.mark.parametrize("module", sorted(house.module_paths()))
def test_a_module_imports_only_the_rooms_below_it(module: str) -> None:
    rooms = {_room(target) for target in house.imports()[module] if target in house.module_paths()} - {_room(module)}
    allowed = {*ALLOWED[_room(module)], "transfergrid"}
    assert rooms <= allowed, f"{module} imports {sorted(rooms - allowed)}"


def test_the_house_keeps_its_limits() -> None:
    found = house.measure()
    assert found.module_circles == ()
    assert found.folder_circles == ()
    assert found.depth[0] <= house.MAX_DEPTH, found.depth
    assert found.largest_folder[0] <= house.MAX_MODULES, found.largest_folder
    assert found.longest_file[0] <= house.MAX_FILE_LINES, found.longest_file
    assert found.longest_function[0] <= house.MAX_FUNCTION_LINES, found.longest_function


def test_the_house_finds_circles_and_chains() -> None:
    graph = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")}
    assert house.circles(graph) == (("b", "c"),)
    assert house.longest_chain({"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}) == ("a", "b", "c")


def test_the_analysis_never_names_a_model_library() -> None:
    for path in sorted((house.ROOT / "analysis").rglob("*.py")):
        assert not _packages(path) & HEAVY, path.name


def test_the_command_line_starts_without_heavy_packages() -> None:
    code = (
        "import sys, transfergrid.cli, transfergrid.benchmarks.materialise, transfergrid.engine, transfergrid.analysis; "
        f"print(sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_listed_for_the_wheel() -> None:
    project = tomllib.loads((house.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {
        ".".join(("transfergrid", *path.parent.relative_to(house.ROOT).parts))
        for room in (*house.ROOMS, "benchmarks_data")
        for path in (house.ROOT / room).rglob("__init__.py")
    }
    assert folders | {"transfergrid"} == set(project["tool"]["setuptools"]["packages"])


def _packages(path: Path) -> set[str]:
    """Return the top-level names of what a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
