"""What a request comes to before anything runs: adapters, cells, requests, tokens, bytes, time. No model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from transfergrid.benchmarks.materialise import ensure_data
from transfergrid.config import GridConfig, LoraConfig, ModelConfig
from transfergrid.engine.adapters import CONFIG_FILE, LinearShapes, read_linear_shapes
from transfergrid.engine.display import format_duration
from transfergrid.engine.foreign import AdapterPlace
from transfergrid.engine.jobs import tokenisation_settings
from transfergrid.engine.models import load_tokenizer, resolve_model
from transfergrid.engine.radix import build_chains, flatten_items
from transfergrid.engine.selection import Selection
from transfergrid.engine.store import Origin, Part, ScoreStore
from transfergrid.engine.sweep import EvalRequest, find_sources
from transfergrid.engine.targets import Target, TokenisedTarget, load_target, tokenise_targets
from transfergrid.grid import BASE, Cell, RunFolder, Source, UserError

ROW_BYTES = 64
"""Bytes of one stored item row where no part tells (measured: 50 to 80 with 4 choices)."""

_WEIGHT_BYTES = 4  # peft saves adapters in float32 unless told otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEstimate:
    """What one model comes to."""

    model: str
    n_adapters: int
    n_adapters_to_train: int
    n_adapter_bytes: int
    """Of the adapters that are to be trained."""
    n_cells: int
    """(source, target) pairs that were asked for."""
    n_finished: int
    """Pairs of these in the store; their keys are compared when they are scored."""
    n_items: int
    """Item scorings that are left."""
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
    """What a request comes to."""

    models: tuple[ModelEstimate, ...]
    unavailable: Mapping[str, str]
    """Reason by model whose tokenizer cannot be had."""

    def as_json(self) -> dict[str, Any]:
        """Return the estimate for a program."""
        return {"models": [asdict(model) for model in self.models], "unavailable": dict(self.unavailable)}

    def __rich__(self) -> RenderableType:
        """Render as a table with one column per model."""
        table = Table(title="What is left to do")
        table.add_column("")
        for model in self.models:
            table.add_column(Text(model.model), justify="right")
        for name, show in _ROWS:
            table.add_row(name, *(show(model) for model in self.models))
        lines = [f"{model}: {reason}" for model, reason in self.unavailable.items()]
        return Group(table, *(Text(line) for line in lines))


_ROWS: tuple[tuple[str, Callable[[ModelEstimate], str]], ...] = (
    ("adapters to train", lambda model: f"{model.n_adapters_to_train:,} of {model.n_adapters:,}"),
    ("adapters on disk", lambda model: format_bytes(model.n_adapter_bytes)),
    ("(source, target) cells", lambda model: f"{model.n_cells:,}"),
    ("done already", lambda model: f"{model.n_finished:,}"),
    ("item scorings", lambda model: f"{model.n_items:,}"),
    ("requests (item x choice)", lambda model: f"{model.n_requests:,}"),
    ("tokens, contexts repeated", lambda model: f"{model.n_repeated_tokens:,}"),
    ("tokens, each prefix once", lambda model: f"{model.n_unique_tokens:,}"),
    ("items too long", lambda model: f"{model.n_unscorable_items:,}"),
    ("items cut", lambda model: f"{model.n_truncated_items:,}"),
    ("scores on disk", lambda model: format_bytes(model.n_score_bytes)),
    (
        "scoring time",
        lambda model: "not measured yet" if model.expected_s is None else format_duration(model.expected_s),
    ),
)


def format_bytes(n_bytes: float) -> str:
    """Return a size with a unit that keeps it short."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


class _TargetCost(NamedTuple):
    """What one pass over a target costs."""

    n_items: int
    n_requests: int
    n_repeated_tokens: int
    n_unique_tokens: int


def estimate(config: GridConfig, run: RunFolder, request: EvalRequest) -> Estimate:
    """Work out what a request comes to.

    Args:
        config: The configuration.
        run: The run folder; only its data folder is written, where the items are not there yet.
        request: What would be scored.

    Raises:
        UserError: If the data has faults, or a name is not part of the grid.
    """
    selection, places = find_sources(config, run, request)
    ensure_data(config, run.data)
    targets = [load_target(config, run.data, cell) for cell in selection.targets]
    parts = ScoreStore(run.scores).scan(repair=False).parts
    models, unavailable = [], {}
    for model in selection.models:
        own_places = [place for place in places if place.model == model.name]
        try:
            models.append(_estimate_model(config, model, selection, own_places, targets=targets, parts=parts))
        except UserError as error:
            unavailable[model.name] = str(error)
    return Estimate(tuple(models), unavailable)


def _estimate_model(
    config: GridConfig,
    model: ModelConfig,
    selection: Selection,
    places: Sequence[AdapterPlace],
    *,
    targets: Iterable[Target],
    parts: Sequence[Part],
) -> ModelEstimate:
    folder = resolve_model(model.path, model.revision)
    tokenised = tokenise_targets(targets, load_tokenizer(folder), tokenisation_settings(config, folder))
    costs = {cell: _target_cost(target) for cell, target in tokenised.items()}
    origins = [Origin(model.name, None, BASE)] if selection.has_base else []
    origins += [Origin(model.name, place.seed, Source(place.cell)) for place in places]
    parts = [part for part in parts if part.origin.model == model.name]
    finished = {(part.origin, Cell.parse(record.target)) for part in parts for record in part.cells}
    left = [costs[cell] for origin in origins for cell in selection.targets if (origin, cell) not in finished]
    to_train = [place for place in places if not (place.path / CONFIG_FILE).is_file()]
    n_items = sum(cost.n_items for cost in left)
    n_unique = sum(cost.n_unique_tokens for cost in left)
    rate = _measured_rate(parts)
    return ModelEstimate(
        model=model.name,
        n_adapters=len(places),
        n_adapters_to_train=len(to_train),
        n_adapter_bytes=len(to_train) * adapter_bytes(read_linear_shapes(folder), config.lora) if to_train else 0,
        n_cells=len(origins) * len(selection.targets),
        n_finished=len(origins) * len(selection.targets) - len(left),
        n_items=n_items,
        n_requests=sum(cost.n_requests for cost in left),
        n_repeated_tokens=sum(cost.n_repeated_tokens for cost in left),
        n_unique_tokens=n_unique,
        n_unscorable_items=sum(target.counts.n_unscorable for target in tokenised.values()),
        n_truncated_items=sum(target.counts.n_truncated_items for target in tokenised.values()),
        n_score_bytes=round(n_items * _row_bytes(parts)),
        expected_s=None if rate is None else n_unique / rate,
    )


def _target_cost(target: TokenisedTarget) -> _TargetCost:
    if not target.scorable:
        return _TargetCost(len(target.target.items), target.counts.n_requests, 0, 0)
    requests = flatten_items(target.scorable)
    return _TargetCost(
        n_items=len(target.target.items),
        n_requests=target.counts.n_requests,
        n_repeated_tokens=int(requests.path_lengths.sum()),
        n_unique_tokens=build_chains(requests).n_tokens,
    )


def adapter_bytes(shapes: LinearShapes, lora: LoraConfig) -> int:
    """Return the size of one adapter's weights in float32."""
    adapted = (shape for module, shape in shapes.items() if module.rpartition(".")[2] in lora.target_modules)
    return _WEIGHT_BYTES * lora.r * sum(n_out + n_in for n_out, n_in in adapted)


def _measured_rate(parts: Iterable[Part]) -> float | None:
    """Return computed tokens per second over the cells in the store."""
    records = [record for part in parts for record in part.cells]
    seconds = sum(record.wall_s for record in records)
    tokens = sum(record.n_computed_tokens for record in records)
    return tokens / seconds if tokens and seconds else None


def _row_bytes(parts: Sequence[Part]) -> float:
    n_rows = sum(record.n_items for part in parts for record in part.cells)
    return sum(part.path.stat().st_size for part in parts) / n_rows if n_rows else ROW_BYTES
