"""One source on one target: from a scorer's log-likelihoods to a cell for the store."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.evaluation.events import ItemsScored, OnEvent
from transfergrid.engine.evaluation.item_scores import CellOrigin, ItemScore, leave_unscored, score_item, score_rows
from transfergrid.engine.interfaces import Adapter, Prepared, Scorer
from transfergrid.engine.work.targets import TokenisedTarget
from transfergrid.grid import Cell
from transfergrid.store.key import RunKey
from transfergrid.store.score_store import CellRecord, Origin
from transfergrid.store.score_writer import ScoredCell

NOT_FINITE = "a log-likelihood is not finite"
"""Reason of items that another attempt could score."""

_REPORT_EVERY = 32


class CellScorer:
    """Scores whole cells of one model.

    Every cell has its own plan, so that its numbers do not depend on which other cells are left to do.
    """

    def __init__(self, scorer: Scorer, targets: Mapping[Cell, TokenisedTarget], on_event: OnEvent) -> None:
        self._scorer = scorer
        self._targets = targets
        self._on_event = on_event
        self._prepared: dict[Cell, Prepared] = {}

    def score(self, origin: Origin, adapter: Adapter | None, key: RunKey, cell: Cell) -> ScoredCell:
        """Score one target.

        Raises:
            AdapterError: If the adapter cannot be applied.
            ScoringError: If the scorer leaves an item out, or gives one twice.
        """
        started = time.perf_counter()
        target = self._targets[cell]
        prepared = self._prepare(cell)
        sums = {} if prepared is None else self._collect(prepared, adapter)
        item_origin = CellOrigin(
            origin=origin,
            target=cell,
            primary_metric=target.target.primary_metric,
            run_key=key.digest(target.target.items_hash),
        )
        scores = _item_scores(target, sums, item_origin)
        record = CellRecord(
            target=cell.name,
            run_key=item_origin.run_key,
            items_hash=target.target.items_hash,
            n_items=len(scores),
            n_unscored=sum(score.unscored_reason is not None for score in scores),
            n_to_retry=sum(score.unscored_reason == NOT_FINITE for score in scores),
            wall_s=time.perf_counter() - started,
            n_computed_tokens=0 if prepared is None else prepared.n_computed_tokens,
            n_repeated_tokens=0 if prepared is None else prepared.n_repeated_tokens,
        )
        return ScoredCell(origin, key.parts, record, partial(score_rows, item_origin, scores))

    def _prepare(self, cell: Cell) -> Prepared | None:
        """Plan a target when it is first needed; None if no item of it can be scored."""
        if cell not in self._prepared and self._targets[cell].scorable:
            self._prepared[cell] = self._scorer.prepare(self._targets[cell].scorable)
        return self._prepared.get(cell)

    def _collect(self, prepared: Prepared, adapter: Adapter | None) -> dict[int, tuple[float, ...]]:
        """Return the log-likelihoods by position among the prepared items."""
        sums: dict[int, tuple[float, ...]] = {}
        unreported = 0
        for result in self._scorer.score(prepared, adapter):
            if result.index in sums:
                raise ScoringError(f"the scorer gave item {result.index} twice; report this as a bug")
            sums[result.index] = result.loglikelihoods_nats
            unreported += 1
            if unreported == _REPORT_EVERY:
                self._on_event(ItemsScored(unreported))
                unreported = 0
        if len(sums) != prepared.n_items:
            raise ScoringError(f"the scorer gave {len(sums)} of {prepared.n_items} items; report this as a bug")
        if unreported:
            self._on_event(ItemsScored(unreported))
        return sums


def _item_scores(target: TokenisedTarget, sums: Mapping[int, tuple[float, ...]], origin: CellOrigin) -> list[ItemScore]:
    """Return the scores of all items of a target in the target's order."""
    items = target.target.items
    scores = {at: leave_unscored(items[at], reason) for at, reason in target.unscorable.items()}
    for index, (at, tokenised) in enumerate(zip(target.positions, target.scorable, strict=True)):
        if all(map(math.isfinite, sums[index])):
            cut = tokenised.n_truncated_tokens
            scores[at] = score_item(items[at], sums[index], origin, n_truncated_tokens=cut)
        else:
            scores[at] = leave_unscored(items[at], NOT_FINITE)
    return [scores[at] for at in range(len(items))]
