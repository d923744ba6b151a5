"""One source on one target: from what a scorer says to a cell for the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.evaluation.events import ItemsScored, OnEvent
from transfergrid.engine.evaluation.item_scores import CellOrigin, ItemScore, is_tied, leave_unscored, score_rows
from transfergrid.engine.evaluation.modes import NOT_FINITE, Mode, get_mode
from transfergrid.engine.interfaces import Adapter, Prepared, Scorer
from transfergrid.engine.work.cells import TokenisedCell
from transfergrid.grid import Cell
from transfergrid.store.key import RunKey
from transfergrid.store.score_store import CellRecord, Origin
from transfergrid.store.score_writer import ScoredCell

_REPORT_EVERY = 32

Extent = tuple[int, int] | None
"""First item of a slice and the one after its last, by the seeded order; None: all items of the cell."""


class CellScorer:
    """Scores cells of one model, or slices of them.

    Every cell or slice has its own plan, so that its numbers do not depend on which others are left to do.
    """

    def __init__(
        self, scorer: Scorer, targets: Mapping[Cell, TokenisedCell], on_event: OnEvent, device: str | None
    ) -> None:
        self._scorer = scorer
        self._targets = targets
        self._on_event = on_event
        self._device = device
        self._prepared: dict[tuple[Cell, int | None, Extent], tuple[TokenisedCell, Prepared | None]] = {}

    def score(
        self, origin: Origin, adapter: Adapter | None, key: RunKey, cell: Cell, *, extent: Extent = None
    ) -> ScoredCell:
        """Score one target, or the items of an extent of its seeded order.

        Raises:
            AdapterError: If the adapter cannot be applied.
            ScoringError: If the scorer leaves an item out, or gives one twice.
        """
        started = time.perf_counter()
        target, prepared = self._prepare(cell, origin.seed, extent)
        said = {} if prepared is None else self._collect(prepared, adapter, get_mode(target.asked.mode))
        item_origin = CellOrigin(
            origin=origin,
            target=cell,
            primary_metric=target.asked.primary_metric,
            run_key=key.digest(target.asked.items_hash),
        )
        scores = _item_scores(target, said, item_origin)
        record = CellRecord(
            target=cell.name,
            run_key=item_origin.run_key,
            items_hash=target.asked.items_hash,
            n_items=len(scores),
            n_unscored=sum(score.unscored_reason is not None for score in scores),
            n_to_retry=sum(score.unscored_reason == NOT_FINITE for score in scores),
            wall_s=time.perf_counter() - started,
            n_computed_tokens=0 if prepared is None else prepared.n_computed_tokens,
            n_repeated_tokens=0 if prepared is None else prepared.n_repeated_tokens,
            n_tied=sum(is_tied(score, item_origin.primary_metric) for score in scores),
            n_truncated=target.counts.n_truncated_items,
            n_not_prefix=target.counts.n_not_prefix,
            n_encoded_apart=target.counts.n_encoded_apart,
            device=self._device,
            start=target.asked.start,
            n_all=target.asked.n_all,
        )
        values = {score.item_id: score.value for score in scores}
        return ScoredCell(origin, key.parts, record, partial(score_rows, item_origin, scores), values)

    def _prepare(self, cell: Cell, seed: int | None, extent: Extent) -> tuple[TokenisedCell, Prepared | None]:
        """Plan a target or slice when it is first needed; None if no item of it can be scored."""
        key = (cell, seed if self._targets[cell].asked.draws else None, extent)
        if key not in self._prepared:
            target = self._targets[cell].of_seed(seed)
            target = target if extent is None else target.slice(*extent)
            scorable = target.scorable
            plan = get_mode(target.asked.mode).prepare(self._scorer, scorable) if scorable else None
            self._prepared[key] = target, plan
        return self._prepared[key]

    def _collect(self, prepared: Prepared, adapter: Adapter | None, mode: Mode) -> dict[int, Any]:
        """Return what the model says, by position among the prepared items."""
        said: dict[int, Any] = {}
        unreported = 0
        for index, answer in mode.score(self._scorer, prepared, adapter):
            if index in said:
                raise ScoringError(f"the scorer gave item {index} twice; report this as a bug")
            said[index] = answer
            unreported += 1
            if unreported == _REPORT_EVERY:
                self._on_event(ItemsScored(unreported))
                unreported = 0
        if len(said) != prepared.n_items:
            raise ScoringError(f"the scorer gave {len(said)} of {prepared.n_items} items; report this as a bug")
        if unreported:
            self._on_event(ItemsScored(unreported))
        return said


def _item_scores(target: TokenisedCell, said: Mapping[int, Any], origin: CellOrigin) -> list[ItemScore]:
    """Return the scores of all items of a target in the target's order."""
    items, mode = target.asked.items, get_mode(target.asked.mode)
    scores = {at: leave_unscored(items[at], reason) for at, reason in target.unscorable.items()}
    for index, (at, tokenised) in enumerate(zip(target.positions, target.scorable, strict=True)):
        score = mode.outcome(items[at], said[index], origin)
        cut = tokenised.n_truncated_tokens if score.value is not None else 0
        scores[at] = replace(score, n_truncated_tokens=cut)
    return [scores[at] for at in range(len(items))]
