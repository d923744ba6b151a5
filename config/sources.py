"""Sources beyond one cell: mixtures, which are trained on several cells, and merges of adapters that exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field

from transfergrid.config.values import MAX_LORA_RANK, NUMBER, AsGiven
from transfergrid.grid import MERGE_KIND, MIXTURE_KIND, Cell, Grid, Source, UserError
from transfergrid.wording import closest_hint

Axis = dict[Literal["task", "language"], str]
Budget = Literal["same", "all"]
Method = Literal["linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"]

PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods that drop a part of every adapter's weights."""
DEFAULT_DENSITY = 0.5
"""Share of an adapter's weights that they keep unless ``density`` says another."""
_WAYS = ("train_on", "merge_of", "pairs_of", "leave_one_out", "all_languages_of", "all_tasks_of")


class SourceConfig(AsGiven):
    """A mixture or merge, or a rule that makes several; exactly one of the first six keys."""

    train_on: tuple[str, ...] | None = None
    """Cells whose items are trained on together, each ``task-lang``."""
    merge_of: tuple[str, ...] | None = None
    """Sources of this configuration whose adapters are merged: cells and mixtures."""
    pairs_of: Axis | None = None
    """``{task: T}``: every two languages of a task, ``NAME-de-fr``; ``{language: L}``: every two tasks of one."""
    leave_one_out: Axis | None = None
    """``{task: T}``: all languages of a task but one, ``NAME-without-de``; ``{language: L}``: all tasks but one."""
    all_languages_of: str | None = None
    """All languages of a task."""
    all_tasks_of: str | None = None
    """All tasks of a language."""
    budget: Budget = "same"
    """Train items of a mixture: as many as one cell has, shared out evenly, or ``all``."""
    method: Method | None = None
    """How adapters are merged, as in peft; ``merge_of`` without it: ``linear``. A rule with it makes merges."""
    weights: tuple[Annotated[float, NUMBER], ...] | None = None
    """One factor for each merged adapter, negative ones subtract; null: 1 / number of adapters."""
    density: Annotated[float, Field(gt=0, le=1), NUMBER] | None = None
    """Share of weights that a method which drops some keeps (ties, dare_linear, dare_ties, magnitude_prune)."""


@dataclass(frozen=True, slots=True)
class Merge:
    """How a merge is made."""

    parents: tuple[str, ...]
    """Names of the merged sources."""
    method: Method
    weights: tuple[float, ...]
    """One per parent."""
    density: float | None
    """None where the method drops no weights."""

    def rank(self, of_one: int) -> int:
        """Return the rank of the merged adapter of parents of one rank."""
        return of_one * len(self.parents) if self.method == "cat" else of_one


@dataclass(frozen=True, slots=True)
class Recipe:
    """A source of several cells and how its adapter is made."""

    source: Source
    budget: Budget = "same"
    merge: Merge | None = None
    """None: it is trained."""


def read_recipes(sources: Mapping[str, SourceConfig], grid: Grid, *, rank: int) -> tuple[Recipe, ...]:
    """Return all mixtures and merges of a configuration, mixtures first.

    Raises:
        ValueError: If one cannot be made; names all that cannot.
    """
    faults: list[str] = []
    known = {cell.name: Source.of(cell) for cell in grid.source_cells}
    recipes: list[Recipe] = []
    for is_merge in (False, True):  # merges may name any mixture
        for name, given in sources.items():
            if (given.merge_of is not None or given.method is not None) != is_merge:
                continue
            try:
                made = list(_merges(name, given, grid, known) if is_merge else _mixtures(name, given, grid))
                for recipe in made:
                    _require_new(recipe, known, recipes, rank=rank)
                    recipes.append(recipe)
            except (ValueError, UserError) as error:
                faults.append(f"{name}: {error}")
        known.update({recipe.source.name: recipe.source for recipe in recipes})
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(recipes)


def _require_new(recipe: Recipe, known: Mapping[str, Source], recipes: Sequence[Recipe], *, rank: int) -> None:
    name = recipe.source.name
    if name in known or any(name == other.source.name for other in recipes):
        raise ValueError(f"there is another source {name!r}; give each a name of its own")
    if recipe.merge is not None and (needed := recipe.merge.rank(rank)) > MAX_LORA_RANK:
        n_most = MAX_LORA_RANK // rank
        raise ValueError(
            f"method 'cat' of {len(recipe.merge.parents)} adapters of rank {rank} has rank {needed}, and at most "
            f"{MAX_LORA_RANK} is served; merge at most {n_most} of them, or use 'svd', which keeps rank {rank}"
        )


def _mixtures(name: str, given: SourceConfig, grid: Grid) -> Iterator[Recipe]:
    way = _only_way(given)
    if unused := [key for key in ("weights", "density") if getattr(given, key) is not None]:
        raise ValueError(f"{unused[0]!r} is for merges, and {way!r} without a 'method' trains; drop it or add 'method'")
    for each, cells in _groups(name, given, way, grid).items():
        yield Recipe(Source(MIXTURE_KIND, each, cells), given.budget)


def _merges(name: str, given: SourceConfig, grid: Grid, known: Mapping[str, Source]) -> Iterator[Recipe]:
    way = _only_way(given)
    if way == "train_on":
        raise ValueError("'train_on' trains and 'method' merges; name the adapters to merge with 'merge_of'")
    if "budget" in given.model_fields_set:
        raise ValueError("'budget' counts train items, and a merge has none; drop it")
    if given.merge_of is None:
        groups = {each: tuple(cell.name for cell in cells) for each, cells in _groups(name, given, way, grid).items()}
    else:
        groups = {name: given.merge_of}
    for each, parents in groups.items():
        yield Recipe(_merged_source(each, parents, known), merge=_merge(given, parents))


def _merged_source(name: str, parents: Sequence[str], known: Mapping[str, Source]) -> Source:
    if len(parents) < 2:
        raise ValueError(f"{name!r} merges {len(parents)} source(s); expected two or more")
    _refuse_unknown("source", parents, list(known))
    cells = dict.fromkeys(cell for parent in parents for cell in known[parent].cells)
    return Source(MERGE_KIND, name, tuple(cells))


def _merge(given: SourceConfig, parents: tuple[str, ...]) -> Merge:
    method = given.method or "linear"
    if given.density is not None and method not in PRUNING:
        raise ValueError(f"method {method!r} drops no weights and takes no 'density'; expected one of {list(PRUNING)}")
    weights = given.weights if given.weights is not None else (1 / len(parents),) * len(parents)
    if len(weights) != len(parents):
        raise ValueError(f"{len(weights)} weight(s) for {len(parents)} adapters; give one weight for each")
    if 0 in weights:
        raise ValueError("a weight of 0 leaves its adapter out; drop the adapter, or give it another weight")
    density = (given.density or DEFAULT_DENSITY) if method in PRUNING else None
    return Merge(parents, method, weights, density)


def _only_way(given: SourceConfig) -> str:
    ways = [way for way in _WAYS if getattr(given, way) is not None]
    if len(ways) != 1:
        found = "none of them" if not ways else f"{ways}"
        raise ValueError(f"expected exactly one of {list(_WAYS)}, found {found}")
    return ways[0]


def _groups(name: str, given: SourceConfig, way: str, grid: Grid) -> dict[str, tuple[Cell, ...]]:
    """Return the cells of every source that one entry makes, by the source's name."""
    if given.train_on is not None:
        return {name: _listed_cells(given.train_on, grid)}
    if way in ("all_languages_of", "all_tasks_of"):
        axis = "task" if way == "all_languages_of" else "language"
        return {name: _cells_along(axis, getattr(given, way), grid)}
    rule: Axis = getattr(given, way)
    if len(rule) != 1:
        raise ValueError(f"{way} has {len(rule)} keys; expected either 'task' or 'language'")
    ((axis, value),) = rule.items()
    cells = _cells_along(axis, value, grid)
    labels = {cell: cell.language if axis == "task" else cell.task for cell in cells}
    if len(cells) < 2:
        raise ValueError(f"{way} needs two cells or more, and {axis} {value!r} has one")
    if way == "pairs_of":
        return {f"{name}-{labels[one]}-{labels[two]}": (one, two) for one, two in combinations(cells, 2)}
    return {f"{name}-without-{labels[out]}": tuple(cell for cell in cells if cell != out) for out in cells}


def _cells_along(axis: str, value: str, grid: Grid) -> tuple[Cell, ...]:
    _refuse_unknown(axis, [value], list(grid.tasks if axis == "task" else grid.every_language))
    return tuple(cell for cell in grid.source_cells if getattr(cell, axis) == value)


def _listed_cells(names: Sequence[str], grid: Grid) -> tuple[Cell, ...]:
    if not names:
        raise ValueError("'train_on' is empty; name at least one cell")
    _refuse_unknown("cell", names, [cell.name for cell in grid.source_cells])
    return tuple(map(Cell.parse, names))


def _refuse_unknown(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; expected one of {list(known)}{closest_hint(name, known)}")
        if names.count(name) > 1:
            raise ValueError(f"{kind} {name!r} stands there twice; name each once")
