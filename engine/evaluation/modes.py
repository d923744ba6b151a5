"""Ways to ask a model about an item: what is prepared, what the model says, and what that is worth."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.benchmarks.spec import CHOICE_MODE, HARNESS_MODE
from transfergrid.engine.evaluation.asking import prepare_items, score_items
from transfergrid.engine.evaluation.harness_count import count_answer
from transfergrid.engine.evaluation.item_scores import CellOrigin, ItemScore, leave_unscored, score_item
from transfergrid.engine.interfaces import Adapter, Prepared, Scorer, TokenisedItem
from transfergrid.grid import UserError

NOT_FINITE = "a log-likelihood is not finite"
"""Reason of items that another attempt could score."""


class Mode(Protocol):
    """One way to ask; has no state, so that one object serves all cells."""

    def prepare(self, scorer: Scorer, items: Sequence[TokenisedItem]) -> Prepared:
        """Plan the items of a cell once, for every adapter."""

    def score(self, scorer: Scorer, prepared: Prepared, adapter: Adapter | None) -> Iterator[tuple[int, Any]]:
        """Yield every item's position and what the model says to it, in no fixed order; None asks the base."""

    def outcome(self, item: Item, said: Any, origin: CellOrigin) -> ItemScore:
        """Return the item's value and what the store keeps of what was said, or why it has no value.

        Raises:
            ScoringError: If what was said cannot become a value; names model, source, target and item.
        """


class LoglikelihoodChoice:
    """Every choice is scored by its log-likelihood after the context; the metric makes a value of these."""

    def prepare(self, scorer: Scorer, items: Sequence[TokenisedItem]) -> Prepared:
        """Plan the items."""
        return prepare_items(scorer, items)

    def score(self, scorer: Scorer, prepared: Prepared, adapter: Adapter | None) -> Iterator[tuple[int, Any]]:
        """Yield the log-likelihoods of an item's choices, shape [C], in nats."""
        return ((each.index, each.loglikelihoods_nats) for each in score_items(scorer, prepared, adapter))

    def outcome(self, item: Item, said: Any, origin: CellOrigin) -> ItemScore:
        """Return the score by the primary metric; an item with a log-likelihood that is not finite is not scored."""
        if not all(map(math.isfinite, said)):
            return leave_unscored(item, NOT_FINITE)
        return score_item(item, said, origin)


class HarnessCount(LoglikelihoodChoice):
    """Log-likelihoods of which lm-evaluation-harness makes a value; they are stored as what was said."""

    def score(self, scorer: Scorer, prepared: Prepared, adapter: Adapter | None) -> Iterator[tuple[int, Any]]:
        """Yield the `ItemLoglikelihoods` of an item's choices or requests."""
        return ((each.index, each) for each in score_items(scorer, prepared, adapter))

    def outcome(self, item: Item, said: Any, origin: CellOrigin) -> ItemScore:
        """Return the harness' value of an item; ``output`` has what it adds to other numbers of the harness, too."""
        sums = said.loglikelihoods_nats
        if not all(map(math.isfinite, sums)):
            return leave_unscored(item, NOT_FINITE)
        try:
            value, results = count_answer(item, sums, said.are_greedy)
        except ScoringError as error:
            raise ScoringError(f"{origin}, item {item.item_id!r}: {error}") from error
        answer: Any = list(sums)
        if results:
            greedy = {} if said.are_greedy is None else {"are_greedy": list(said.are_greedy)}
            answer = {"loglikelihoods_nats": answer, **greedy, "results": results}
        return ItemScore(item_id=item.item_id, gold=item.gold, value=value, output=json.dumps(answer))


MODES: dict[str, Mode] = {CHOICE_MODE: LoglikelihoodChoice(), HARNESS_MODE: HarnessCount()}
"""Modes by the name that a task's format gives."""


def get_mode(name: str) -> Mode:
    """Return a mode.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in MODES:
        raise UserError(f"unknown mode {name!r} of a task's format; expected one of {sorted(MODES)}")
    return MODES[name]
