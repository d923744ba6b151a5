"""The size of a request before anything runs: adapters, cells, requests, tokens, bytes, time. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from transfergrid.benchmarks.materialise import has_data, materialise
from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE
from transfergrid.engine.adapters.places import AdapterPlace
from transfergrid.engine.interfaces import asked_parts
from transfergrid.engine.models.resolve import resolve_model
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.engine.planning.radix import build_chains, flatten_items
from transfergrid.engine.work.adapter_sizes import bytes_to_make, full_training_bytes
from transfergrid.engine.work.base_model import tokenisation_settings
from transfergrid.engine.work.cells import CellItems, TokenisedCell, load_cell, tokenise_cells
from transfergrid.engine.work.left import find_left, read_values
from transfergrid.engine.work.plan import Estimate, KindEstimate, ModelEstimate
from transfergrid.engine.work.request import EvalRequest, find_sources
from transfergrid.engine.work.source_jobs import SourceJob
from transfergrid.grid import BASE, BASE_KIND, CELL_KIND, Cell, Source, UserError
from transfergrid.store.adaptive import LOOK_EVERY, Design, expected_items
from transfergrid.store.folder import RunFolder
from transfergrid.store.key import RunKey
from transfergrid.store.lock import hold_run_folder
from transfergrid.store.score_store import Origin, Part, Scan, ScoreStore

ROW_BYTES = 64
"""Bytes of one stored item row where no part tells (measured: 50 to 80 with 4 choices)."""


class _TargetCost(NamedTuple):
    """What one pass over a target costs."""

    n_items: float
    n_requests: float
    n_repeated_tokens: float
    n_unique_tokens: float

    def times(self, share: float) -> _TargetCost:
        """Return what a share of the items costs."""
        return _TargetCost(*(share * each for each in self))


def estimate(config: GridConfig, run: RunFolder, request: EvalRequest) -> Estimate:
    """Work out the size of a request.

    Of the run folder only the data are written, where the items are not there yet.

    Raises:
        UserError: If the data has faults, a name is not part of the grid, or items are to be written into a run folder
            that another process holds.
    """
    selection, places = find_sources(config, run, request)
    if not has_data(config, run.data):
        with hold_run_folder(run.root, "grid plan"):
            materialise(config, run.data)
    targets = [load_cell(config, run.data, cell) for cell in selection.targets]
    parts = ScoreStore(run.scores).scan(repair=False).parts
    models, unavailable = [], {}
    for model in selection.models:
        own_places = [place for place in places if place.model == model.name]
        try:
            own_parts = [part for part in parts if part.origin.model == model.name]
            asked = _Asked(selection, own_places, targets, own_parts, request.design)
            models.append(_estimate_model(config, model, asked))
        except UserError as error:
            unavailable[model.name] = str(error)
    sizes = [len(target.items) for target in targets]
    design = request.design
    share = None if design is None else sum(expected_items(design.n_planned(n)) for n in sizes) / sum(sizes)
    return Estimate(tuple(models), unavailable, share)


class _Asked(NamedTuple):
    """A request's part of one model, and what is stored of it."""

    selection: Selection
    places: Sequence[AdapterPlace]
    targets: Sequence[CellItems]
    parts: Sequence[Part]
    design: Design | None


def _estimate_model(config: GridConfig, model: ModelConfig, asked: _Asked) -> ModelEstimate:
    selection, places, parts = asked.selection, asked.places, asked.parts
    folder = resolve_model(model.path, model.revision, with_weights=False)
    tokenised = tokenise_cells(asked.targets, load_tokenizer(folder), tokenisation_settings(config, folder))
    costs = {cell: _target_cost(target) for cell, target in tokenised.items()}
    origins = [Origin(model.name, BASE)] if selection.has_base else []
    origins += [Origin(model.name, place.source) for place in places]
    by_origin = [(origin, costs[cell].times(share)) for origin, cell, share in _shares_left(origins, asked)]
    left = [cost for _, cost in by_origin]
    to_train = [place for place in places if not (place.path / CONFIG_FILE).is_file()]
    rate = _measured_rate(parts)

    def of_kind(what: str) -> KindEstimate:
        own = [place for place in places if _what(place.source) == what]
        missing = [place for place in own if place in to_train]
        own_left = [cost for origin, cost in by_origin if _what(origin.source) == what]
        n_items, n_tokens = _scorings(own_left)
        size = bytes_to_make(missing, config, folder) if missing else 0
        return KindEstimate(what, len(own), len(missing), size, n_items, n_tokens, rate and n_tokens / rate)

    kinds = dict.fromkeys(_what(origin.source) for origin in origins)
    n_items, n_unique = _scorings(left)
    return ModelEstimate(
        model=model.name,
        n_adapters=len(places),
        n_adapters_to_train=len(to_train),
        n_adapter_bytes=bytes_to_make(to_train, config, folder) if to_train else 0,
        n_training_bytes=full_training_bytes(to_train, config, folder),
        n_cells=len(origins) * len(selection.targets),
        n_finished=len(origins) * len(selection.targets) - len(left),
        n_items=n_items,
        n_requests=round(sum(cost.n_requests for cost in left)),
        n_repeated_tokens=round(sum(cost.n_repeated_tokens for cost in left)),
        n_unique_tokens=n_unique,
        n_unscorable_items=sum(target.counts.n_unscorable for target in tokenised.values()),
        n_truncated_items=sum(target.counts.n_truncated_items for target in tokenised.values()),
        n_score_bytes=round(n_items * _row_bytes(parts)),
        expected_s=None if rate is None else n_unique / rate,
        kinds=tuple(map(of_kind, kinds)) if kinds.keys() - {BASE_KIND, CELL_KIND} else (),
    )


def _what(source: Source) -> str:
    return f"{source.kind} {source.variant}".strip()


def _scorings(left: Sequence[_TargetCost]) -> tuple[int, int]:
    """Return item scorings and unique tokens."""
    return round(sum(cost.n_items for cost in left)), round(sum(cost.n_unique_tokens for cost in left))


def _shares_left(origins: Sequence[Origin], asked: _Asked) -> list[tuple[Origin, Cell, float]]:
    """Return source, target and share of its items, as far as something is left; expected shares with a design."""
    stored, design = Scan(tuple(asked.parts)).cells(), asked.design
    items = {target.cell: target for target in asked.targets}
    base = next((origin for origin in origins if origin.source == BASE), None)
    values = read_values(base, stored, items) if base is not None and design is not None else {}
    jobs = [SourceJob(origin, None, RunKey({}), tuple(items)) for origin in origins]
    shares = []
    for job in find_left(jobs, stored, items, design=design, base=values):
        for target in job.targets:
            n = len(items[target].of_seed(job.origin.seed).items)
            n_seen = len(job.values.get(target, ()))
            if design is not None and job.origin != base:
                n = design.n_planned(n)
                n = min(n, round(max(expected_items(n), n_seen + LOOK_EVERY if n_seen else 0)))
            shares.append((job.origin, target, (n - n_seen) / len(items[target].items)))
    return shares


def _target_cost(target: TokenisedCell) -> _TargetCost:
    if not target.scorable:
        return _TargetCost(len(target.asked.items), target.counts.n_requests, 0, 0)
    requests = flatten_items(asked_parts(target.scorable))
    return _TargetCost(
        n_items=len(target.asked.items),
        n_requests=target.counts.n_requests,
        n_repeated_tokens=int(requests.path_lengths.sum()),
        n_unique_tokens=build_chains(requests).n_tokens,
    )


def _measured_rate(parts: Iterable[Part]) -> float | None:
    """Return computed tokens per second over the cells in the store."""
    records = [record for part in parts for record in part.cells]
    seconds = sum(record.wall_s for record in records)
    tokens = sum(record.n_computed_tokens for record in records)
    return tokens / seconds if tokens and seconds else None


def _row_bytes(parts: Sequence[Part]) -> float:
    n_rows = sum(record.n_items for part in parts for record in part.cells)
    return sum(part.path.stat().st_size for part in parts) / n_rows if n_rows else ROW_BYTES
