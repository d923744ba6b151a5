"""The size of a request before anything runs: adapters, cells, requests, tokens, bytes, time. No model is loaded."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

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
from transfergrid.engine.work.request import EvalRequest, find_sources
from transfergrid.engine.work.source_jobs import SourceJob
from transfergrid.grid import BASE, Cell, UserError
from transfergrid.store.adaptive import (
    EXPECTED_CHANGE,
    EXPECTED_MEAN_PP,
    EXPECTED_SD_PP,
    LOOK_EVERY,
    Design,
    expected_items,
)
from transfergrid.store.folder import RunFolder
from transfergrid.store.key import RunKey
from transfergrid.store.lock import hold_run_folder
from transfergrid.store.score_store import Origin, Part, Scan, ScoreStore
from transfergrid.wording import format_bytes, format_duration

ROW_BYTES = 64
"""Bytes of one stored item row where no part tells (measured: 50 to 80 with 4 choices)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEstimate:
    """The size of one model's part of a request."""

    model: str
    n_adapters: int
    n_adapters_to_train: int
    n_adapter_bytes: int
    """Of the adapters that are to be trained."""
    n_training_bytes: int
    """Memory of full fine-tuning: weights, gradients, AdamW and the best epoch in float32; 0: none is to be made."""
    n_cells: int
    """(source, target) pairs that were asked for."""
    n_finished: int
    """Pairs of these in the store; their keys are compared when they are scored."""
    n_items: int
    """Item scorings that are left; with stopping, this and what follows from it are what is expected."""
    n_requests: int
    """(item, choice) scorings that are left."""
    n_repeated_tokens: int
    """Tokens left if every choice repeated its context."""
    n_unique_tokens: int
    """Tokens left with every distinct prefix of a cell computed once."""
    n_unscorable_items: int
    """Items of one pass over the targets that are too long."""
    n_truncated_items: int
    """Items of one pass over the targets whose context is cut on the left."""
    n_score_bytes: int
    """Of the rows that are left to store."""
    expected_s: float | None
    """Scoring time at the rate measured in this run; None before anything is measured."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The size of a request."""

    models: tuple[ModelEstimate, ...]
    unavailable: Mapping[str, str]
    """Reason by model that cannot be planned."""
    expected_share: float | None = None
    """Share of the adapters' items that is expected to be scored if pairs may stop; None: they may not."""

    def as_json(self) -> dict[str, Any]:
        """Return the estimate for a program."""
        share = {} if self.expected_share is None else {"expected_share": self.expected_share}
        return {"models": [asdict(model) for model in self.models], "unavailable": dict(self.unavailable), **share}

    def rows(self) -> pl.DataFrame:
        """Return one row per model."""
        return pl.DataFrame([asdict(model) for model in self.models])

    def __rich__(self) -> RenderableType:
        """Render one column per model for a few, one row per model in blocks of figures for more."""
        if len(self.models) > _FEW_MODELS:
            starts = range(0, len(_FIGURES), _BLOCK)
            tables = [_by_model(self.models, _FIGURES[start : start + _BLOCK]) for start in starts]
        else:
            tables = [_by_figure(self.models)] if self.models else []
        lines = [f"{model}: {reason}" for model, reason in self.unavailable.items()]
        lines += [
            f"{each.model}: full fine-tuning takes {format_bytes(each.n_training_bytes)} of memory beside the base"
            for each in self.models
            if each.n_training_bytes
        ]
        if self.expected_share is not None:
            lines.append(
                f"adaptive: {self.expected_share:.0%} of the adapters' items are expected to be scored and are counted "
                f"here, if adapters change {EXPECTED_CHANGE:.0%} of the answers and true deltas are {EXPECTED_MEAN_PP} "
                f"pp, standard deviation {EXPECTED_SD_PP} pp"
            )
        return Group(*tables, *(Text(line) for line in lines))


_TITLE = "What is left to do"
_FEW_MODELS = 2
"""Models that stand side by side in 80 columns."""
_HEAD_WIDTH = 8
"""Characters of a line above such a figure."""
_BLOCK = 4
"""Figures that stand beside a model's name in 80 columns."""

_Figure = tuple[str, Callable[[ModelEstimate], str]]
_FIGURES: tuple[_Figure, ...] = (
    ("(source, target) cells", lambda model: f"{model.n_cells:,}"),
    ("done already", lambda model: f"{model.n_finished:,}"),
    ("item scorings", lambda model: f"{model.n_items:,}"),
    ("requests (item x choice)", lambda model: f"{model.n_requests:,}"),
    ("items too long", lambda model: f"{model.n_unscorable_items:,}"),
    ("items cut", lambda model: f"{model.n_truncated_items:,}"),
    ("tokens, contexts repeated", lambda model: f"{model.n_repeated_tokens:,}"),
    ("tokens, each prefix once", lambda model: f"{model.n_unique_tokens:,}"),
    ("adapters to make", lambda model: f"{model.n_adapters_to_train:,} of {model.n_adapters:,}"),
    ("adapters on disk", lambda model: format_bytes(model.n_adapter_bytes)),
    ("scores on disk", lambda model: format_bytes(model.n_score_bytes)),
    (
        "scoring time",
        lambda model: "not measured yet" if model.expected_s is None else format_duration(model.expected_s),
    ),
)


def _by_figure(models: Sequence[ModelEstimate]) -> Table:
    table = Table(title=_TITLE)
    table.add_column("")
    for model in models:
        table.add_column(Text(model.model), justify="right", overflow="fold")
    for name, show in _FIGURES:
        table.add_row(name, *(show(model) for model in models))
    return table


def _by_model(models: Sequence[ModelEstimate], figures: Sequence[_Figure]) -> Table:
    table = Table(title=_TITLE if figures[0] is _FIGURES[0] else None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name, _ in figures:
        table.add_column(textwrap.fill(name, _HEAD_WIDTH), justify="right", no_wrap=True)
    for model in models:
        table.add_row(Text(model.model), *(show(model) for _, show in figures))
    return table


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
    left = [costs[cell].times(share) for cell, share in _shares_left(origins, asked)]
    to_train = [place for place in places if not (place.path / CONFIG_FILE).is_file()]
    n_items = round(sum(cost.n_items for cost in left))
    n_unique = round(sum(cost.n_unique_tokens for cost in left))
    rate = _measured_rate(parts)
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
    )


def _shares_left(origins: Sequence[Origin], asked: _Asked) -> list[tuple[Cell, float]]:
    """Return target and share of its items, as far as something is left; expected shares with a design."""
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
            shares.append((target, (n - n_seen) / len(items[target].items)))
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
