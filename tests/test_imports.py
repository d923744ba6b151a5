"""Imports go one way, and heavy packages load only where they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("benchmarks", "engine", "trainers", "analysis")
ROOMS = (*PACKAGES, "cli")
ALLOWED = {
    "grid": set(),
    "config": {"grid"},
    "benchmarks": {"grid", "config", "benchmarks", "benchmarks_data"},
    "engine": {"grid", "config", "benchmarks", "engine"},
    "trainers": {"grid", "config", "benchmarks", "engine", "trainers"},
    "analysis": {"grid", "config", "benchmarks", "analysis"},
    "cli": {"grid", "config", *ROOMS},
}
HEAVY = {"torch", "vllm", "transformers", "trl", "peft", "datasets", "ray"}
LIGHT_MODULES = ("grid", "config")


def _modules() -> Iterator[tuple[str, Path]]:
    for name in LIGHT_MODULES:
        yield name, ROOT / f"{name}.py"
    for package in ROOMS:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield package, path


def _imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize(("room", "path"), list(_modules()), ids=lambda value: str(getattr(value, "stem", value)))
def test_a_module_imports_only_the_rooms_below_it(room: str, path: Path) -> None:
    own = {name.split(".")[1] for name in _imported(path) if name.startswith("transfergrid.")}
    assert own <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {sorted(own - ALLOWED[room])}"


def test_the_analysis_never_names_a_model_library() -> None:
    for path in sorted((ROOT / "analysis").rglob("*.py")):
        assert not {name.split(".")[0] for name in _imported(path)} & HEAVY, path.name


def test_the_command_line_starts_without_heavy_packages() -> None:
    code = (
        "import sys, transfergrid.cli, transfergrid.benchmarks.materialise; "
        f"print(sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_listed_for_the_wheel() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {
        ".".join(("transfergrid", *path.parent.relative_to(ROOT).parts))
        for package in (*ROOMS, "benchmarks_data")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert folders <= set(listed)
