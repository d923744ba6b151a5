"""What ``grid eval`` is asked for, and which sources that means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from transfergrid.config.selection import Narrowing, Selection, select
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.places import AdapterFolder, AdapterPlace, folder_places, own_places
from transfergrid.engine.interfaces import ScorerMaker
from transfergrid.store.adaptive import Design
from transfergrid.store.folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """What ``grid eval`` is asked for."""

    narrowing: Narrowing = field(default_factory=Narrowing)
    adapters: AdapterFolder | None = None
    """Adapters from elsewhere in place of the run's own."""
    force: bool = False
    """Score again what is finished."""
    noise_floor: bool = False
    """Score the base a second time in another order, and count the predictions that flip."""
    design: Design | None = None
    """Stop (source, target) pairs that could hardly become significant; None: score all items of all pairs."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The way to score that is asked for."""

    name: str = "vllm"
    """A name in ``evaluation.engines.ENGINES``."""
    server_url: str | None = None
    """Where the engine ``server`` listens."""
    api_key: str | None = field(default=None, repr=False)


class ChosenEngine(NamedTuple):
    """A maker of scorers, with the configuration as it computes and the part of the request that it can do."""

    maker: ScorerMaker
    config: GridConfig
    request: EvalRequest


def find_sources(
    config: GridConfig, run: RunFolder, request: EvalRequest
) -> tuple[Selection, tuple[AdapterPlace, ...]]:
    """Return the selection and where its adapters should be.

    Raises:
        UserError: If a name is not part of the grid, or adapters from elsewhere cannot be told apart.
    """
    narrowing = request.narrowing
    if request.adapters is None:
        selection = select(config, narrowing)
        return selection, own_places(run, selection)
    models = narrowing.models or tuple(model.name for model in config.models)
    places = folder_places(request.adapters, models, config.grid.cells)
    sources = tuple(dict.fromkeys(place.source.without_seed for place in places))
    seeds = tuple(dict.fromkeys(place.seed for place in places))
    selection = select(config.model_copy(update={"seeds": seeds}), narrowing, sources=sources)
    kept = (p for p in places if p.source.without_seed in selection.sources and p.seed in selection.seeds)
    return selection, tuple(kept)
