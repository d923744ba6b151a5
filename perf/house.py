"""Sizes, import depth and import circles of the code: ``python -m transfergrid.perf.house``.

``tests/test_imports.py`` enforces the limits; this prints the figures.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "transfergrid"
ROOMS = ("analysis", "benchmarks", "commands", "config", "engine", "store", "trainers", "view")
"""Folders of product code; single modules of the top level belong to it too."""
SINGLE_MODULES = ("cli", "grid", "interrupts", "wording")

MAX_MODULES = 16
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 45
MAX_DEPTH = 14


class Figures(NamedTuple):
    """What ``measure`` finds."""

    largest_folder: tuple[int, str]
    """Modules, folder."""
    longest_file: tuple[int, str]
    longest_function: tuple[int, str]
    depth: tuple[int, tuple[str, ...]]
    """Length of the longest chain of imports, and the chain."""
    module_circles: tuple[tuple[str, ...], ...]
    folder_circles: tuple[tuple[str, ...], ...]
    n_lines: int


@cache
def module_paths() -> Mapping[str, Path]:
    """Return the file of every module of the product by its dotted name without the package's."""
    files = [ROOT / f"{name}.py" for name in SINGLE_MODULES]
    files += [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def parse(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports() -> Mapping[str, frozenset[str]]:
    """Return by module the modules of the product that it imports, at its top level, in functions or for types."""
    known = module_paths()
    return {name: frozenset(_imported(path, known)) - {name} for name, path in known.items()}


def _imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            own = name.removeprefix(f"{PACKAGE}.")
            if own != name:
                yield own if own in known else own.rpartition(".")[0]


def folder_of(module: str) -> str:
    """Return the folder that a module lies in.

    A module beside rooms stands for itself, as those of the top level do: ``engine/interfaces.py`` lies below all rooms
    of the engine, and ``engine/__init__.py``, which hands on their names, above them.
    """
    folder = module_paths()[module].parent
    return module if folder == ROOT or _has_rooms(folder) else folder.relative_to(ROOT).as_posix()


def _has_rooms(folder: Path) -> bool:
    return any(folder.glob("*/__init__.py"))


def folder_imports() -> dict[str, set[str]]:
    """Return by folder the other folders that its modules import from."""
    found: dict[str, set[str]] = {}
    for module, targets in imports().items():
        own = found.setdefault(folder_of(module), set())
        own |= {folder_of(target) for target in targets if target in module_paths()} - {folder_of(module)}
    return found


def circles(graph: Mapping[str, frozenset[str] | set[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the strongly connected components of more than one node."""
    names = sorted({*graph, *(target for targets in graph.values() for target in targets)})
    matrix = np.array([[target in graph.get(node, ()) for target in names] for node in names])
    n_components, labels = connected_components(matrix, connection="strong")
    found = [tuple(np.array(names)[labels == each].tolist()) for each in range(n_components)]
    return tuple(component for component in found if len(component) > 1)


def longest_chain(graph: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return the longest chain of imports of a graph without circles."""

    @cache
    def below(node: str) -> tuple[str, ...]:
        chains = [below(target) for target in sorted(graph.get(node, ()))]
        return (node, *max(chains, key=len, default=()))

    return max((below(node) for node in sorted(graph)), key=len)


def measure() -> Figures:
    """Measure the product's code."""
    sizes, functions, per_folder = {}, {}, dict[str, int]()
    for name, path in module_paths().items():
        sizes[name] = len(path.read_text(encoding="utf-8").splitlines())
        if path.name != "__init__.py":
            folder = path.relative_to(ROOT).parent.as_posix()
            per_folder[folder] = per_folder.get(folder, 0) + 1
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{name}.{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    module_circles = circles(imports())
    chain = () if module_circles else longest_chain(imports())
    return Figures(
        largest_folder=_largest(per_folder),
        longest_file=_largest(sizes),
        longest_function=_largest(functions),
        depth=(len(chain), chain),
        module_circles=module_circles,
        folder_circles=circles(folder_imports()),
        n_lines=sum(sizes.values()),
    )


def _largest(sizes: Mapping[str, int]) -> tuple[int, str]:
    name = max(sizes, key=lambda each: sizes[each])
    return sizes[name], name


def main() -> None:
    """Print the figures beside their limits."""
    found = measure()
    print(f"product code: {found.n_lines:,} lines in {len(module_paths())} Python files")
    print(f"largest folder: {found.largest_folder[0]} modules ({found.largest_folder[1]}), limit {MAX_MODULES}")
    print(f"longest file: {found.longest_file[0]} lines ({found.longest_file[1]}), limit {MAX_FILE_LINES}")
    print(
        f"longest function: {found.longest_function[0]} lines ({found.longest_function[1]}), limit {MAX_FUNCTION_LINES}"
    )
    print(f"import depth: {found.depth[0]}, limit {MAX_DEPTH}: {' > '.join(found.depth[1])}")
    print(f"circles between files: {len(found.module_circles)}, between folders: {len(found.folder_circles)}, limit 0")
    for circle in (*found.module_circles, *found.folder_circles):
        print(f"  {' <> '.join(circle)}")


if __name__ == "__main__":
    main()
