"""Target cells of one model: their items, tokenised once, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transfergrid.benchmarks.cells import load_items, with_shots
from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.spec import CHOICE_MODE, HARNESS_METRICS, HARNESS_MODE
from transfergrid.benchmarks.tasks import MIN_CHOICES, get_task
from transfergrid.config.settings import GridConfig
from transfergrid.engine.interfaces import TokenisedItem, asked_parts
from transfergrid.engine.models.tokenizer import TokenisationSettings
from transfergrid.engine.planning.tokenisation import TokenisationCounts, TokenisedItems, Unscorable, tokenise_items
from transfergrid.grid import Cell, UserError
from transfergrid.store.adaptive import seeded_order
from transfergrid.store.data_manifest import read_manifest
from transfergrid.store.files import hash_json


@dataclass(frozen=True, slots=True)
class CellItems:
    """One target cell as it is asked, the same for all models."""

    cell: Cell
    items: tuple[Item, ...]
    primary_metric: str
    items_hash: str
    """Hash of ids, prompts, choices and golds of all items, and of the mode if it is another than choice."""
    mode: str = CHOICE_MODE
    start: int | None = None
    """Of a slice: the place of its first item in the seeded order; None: these are all items."""
    n_all: int | None = None
    """Of a slice: items of the cell."""
    draws: Mapping[int, CellItems] = field(default_factory=dict)
    """What adapters of a training seed are asked, where seeds have items of their own; the base is asked them all."""

    def of_seed(self, seed: int | None) -> CellItems:
        """Return the items of a training seed; None: those of the base.

        Raises:
            UserError: If seeds have items of their own, and this one has none.
        """
        if seed is None or not self.draws:
            return self
        if seed not in self.draws:
            raise UserError(
                f"seed {seed} has no test items: with data.test_items_per_seed only the seeds {list(self.draws)} of "
                "the configuration have; add it to 'seeds', or set data.test_items_per_seed: null"
            )
        return self.draws[seed]

    def slice(self, start: int, stop: int) -> CellItems:
        """Return the items from ``start`` up to ``stop`` of the seeded order; all of them as they are."""
        if (start, stop) == (0, len(self.items)):
            return self
        by_id = {item.item_id: item for item in self.items}
        chosen = tuple(by_id[item_id] for item_id in seeded_order(by_id)[start:stop])
        return replace(self, items=chosen, start=start, n_all=len(self.items))


@dataclass(frozen=True, slots=True)
class TokenisedCell:
    """One target cell as one model reads it."""

    asked: CellItems
    scorable: tuple[TokenisedItem, ...]
    positions: tuple[int, ...]
    """Position of each scorable item among the target's items."""
    unscorable: dict[int, str]
    """Reason by position of the items that are not scored."""
    counts: TokenisationCounts
    tokenise: Callable[[CellItems], TokenisedCell]
    """Tokenises some of the items alone."""

    def of_seed(self, seed: int | None) -> TokenisedCell:
        """Return the items of a training seed; None: those of the base."""
        asked = self.asked.of_seed(seed)
        return self if asked is self.asked else self.tokenise(asked)

    def slice(self, start: int, stop: int) -> TokenisedCell:
        """Return the items from ``start`` up to ``stop`` of the seeded order."""
        asked = self.asked.slice(start, stop)
        return self if asked is self.asked else self.tokenise(asked)

    @property
    def longest_tokens(self) -> int:
        """Longest sequence of inputs, in tokens; 0 without scorable items."""
        return max((part.n_inputs for part in asked_parts(self.scorable)), default=0)


def load_cell(config: GridConfig, data_folder: Path, cell: Cell) -> CellItems:
    """Load the test items of a cell in the format that is scored.

    Raises:
        UserError: If the rows are not there, or too few for items of every seed's own.
    """
    task = get_task(cell.task, config.own_tasks)
    name = config.prompts.eval_format
    items = load_items(data_folder, task, cell.language, "test", name)
    is_asked_by_harness = task.is_harness and name == "eval"
    if config.prompts.shots and not is_asked_by_harness:
        items = with_shots(items, load_items(data_folder, task, cell.language, "train", name), config.prompts)
    metric, mode = task.formats[name].primary_metric, task.formats[name].mode
    if is_asked_by_harness and (manifest := read_manifest(data_folder)) is not None:
        metric = manifest.metrics.get(cell.task, metric)
        mode = HARNESS_MODE if metric in HARNESS_METRICS else mode
    elif any(len(item.choices) < MIN_CHOICES for item in items):
        raise UserError(
            f"task {cell.task!r} scores texts among which none is chosen, in the harness' own way alone; set "
            "prompts.eval_format to 'eval'"
        )

    def asked(chosen: Sequence[Item]) -> CellItems:
        content = list(map(_content, chosen))
        decisive = [metric, content] if mode == CHOICE_MODE else [metric, content, mode]
        return CellItems(cell, tuple(chosen), metric, hash_json(decisive), mode)

    if config.data.test_items_per_seed is None:
        return asked(items)
    parts = _draw(cell, items, config)
    drawn = {item.item_id for part in parts for item in part}
    draws = {seed: asked(part) for seed, part in zip(config.seeds, parts, strict=True)}
    return replace(asked([item for item in items if item.item_id in drawn]), draws=draws)


def _content(item: Item) -> list[Any]:
    """Return what identifies an item; shots and the like only where there are any, as keys without them mean none."""
    requests = [[each.prompt, each.continuation] for each in item.requests]
    more = [each for each in (item.shots, item.messages, item.counted, requests) if each]
    return [item.item_id, item.context, item.choices, item.gold, item.delimiter, *more]


def _draw(cell: Cell, items: Sequence[Item], config: GridConfig) -> list[list[Item]]:
    """Return every seed's items: one stretch after another of the seeded order, so that no two seeds share any."""
    n, n_seeds = config.data.test_items_per_seed or 0, len(config.seeds)
    if n * n_seeds > len(items):
        raise UserError(
            f"{n_seeds} seed(s) with {n} test items each need {n * n_seeds}, and {cell.name} has {len(items)}; set "
            f"data.test_items_per_seed to {len(items) // n_seeds} at most"
        )
    place = {item_id: at for at, item_id in enumerate(seeded_order(item.item_id for item in items))}
    return [[item for item in items if place[item.item_id] // n == number] for number in range(n_seeds)]


def tokenise_cells(
    targets: Iterable[CellItems], tokenizer: Any, settings: TokenisationSettings
) -> dict[Cell, TokenisedCell]:
    """Tokenise target cells for one model.

    Raises:
        UserError: If a chat template is asked for and the tokenizer has none.
    """

    def tokenise(target: CellItems) -> TokenisedCell:
        return _split(target, tokenise_items(tokenizer, target.items, settings), tokenise)

    return {target.cell: tokenise(target) for target in targets}


def _split(
    target: CellItems, tokenised: TokenisedItems, tokenise: Callable[[CellItems], TokenisedCell]
) -> TokenisedCell:
    scorable = {at: result for at, result in enumerate(tokenised.results) if isinstance(result, TokenisedItem)}
    return TokenisedCell(
        asked=target,
        scorable=tuple(scorable.values()),
        positions=tuple(scorable),
        unscorable={at: r.reason for at, r in enumerate(tokenised.results) if isinstance(r, Unscorable)},
        counts=tokenised.counts,
        tokenise=tokenise,
    )
