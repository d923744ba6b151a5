"""Which part of the grid a command is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.config.values import Name
from transfergrid.grid import BASE, Cell, Source, UserError
from transfergrid.wording import closest_hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What a user asked for; an empty tuple asks for all, a name given twice counts once."""

    models: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    """Tasks of sources and targets."""
    languages: tuple[str, ...] = ()
    """Languages of sources and targets."""
    sources: tuple[str, ...] = ()
    """Names of sources: ``base``, ``task-lang``, or another kind's own."""
    targets: tuple[str, ...] = ()
    """``task-lang``."""

    def __post_init__(self) -> None:
        """Drop repeated names, so that nothing is done twice."""
        for each in fields(self):
            object.__setattr__(self, each.name, tuple(dict.fromkeys(getattr(self, each.name))))


@dataclass(frozen=True, slots=True)
class Selection:
    """Models, seeds, sources and targets of one command."""

    models: tuple[ModelConfig, ...]
    seeds: tuple[int, ...]
    sources: tuple[Source, ...]
    targets: tuple[Cell, ...]

    @property
    def has_base(self) -> bool:
        """Whether the base model is among the sources."""
        return any(source.is_base for source in self.sources)


def select(config: GridConfig, narrowing: Narrowing, *, sources: Sequence[Source] | None = None) -> Selection:
    """Narrow a configuration's grid.

    Raises:
        UserError: If a name is not part of the configuration, or nothing is left.
    """
    tasks = _chosen("task", narrowing.tasks, config.tasks)
    languages = _chosen("language", narrowing.languages, config.grid.every_language)
    names = _chosen("model", narrowing.models, [model.name for model in config.models])
    cells = config.grid.cells
    if sources is None:
        sources = (*map(Source.of, config.grid.source_cells), *(recipe.source for recipe in config.recipes))
    offered = (BASE, *sources)
    targets = _chosen("target", narrowing.targets, [cell.name for cell in cells])
    chosen = _chosen("source", narrowing.sources, [source.name for source in offered])

    def is_kept(cell: Cell) -> bool:
        return (not narrowing.tasks or cell.task in tasks) and (not narrowing.languages or cell.language in languages)

    selection = Selection(
        models=tuple(model for model in config.models if model.name in names),
        seeds=tuple(_chosen("seed", narrowing.seeds, config.seeds)),
        sources=tuple(
            source for source in offered if source.name in chosen and all(is_kept(cell) for cell in source.cells)
        ),
        targets=tuple(cell for cell in cells if is_kept(cell) and cell.name in targets),
    )
    if not selection.sources or not selection.targets:
        raise UserError("--task and --language leave no source or no target of those named; drop one of the options")
    return selection


def _chosen(kind: str, asked: Sequence[Name], accepted: Sequence[Name]) -> Sequence[Name]:
    for name in asked:
        if name not in accepted:
            hint = closest_hint(name, [str(word) for word in accepted])
            raise UserError(f"unknown {kind} {name!r}; expected one of {list(accepted)}{hint}")
    return asked or accepted
