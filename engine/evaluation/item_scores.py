"""From log-likelihoods to predictions and rows of the results store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.metrics import METRICS, ScoringError, find_tied_choices, get_metric
from transfergrid.grid import Cell
from transfergrid.store.score_store import Origin
from transfergrid.store.scores import SCORE_SCHEMA, source_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOrigin:
    """What all scores of one (source, target) pair have in common."""

    origin: Origin
    target: Cell
    primary_metric: str
    run_key: str

    def __str__(self) -> str:
        """Return model, seed, source and target for messages."""
        return f"{self.origin}, target {self.target.name!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """One item under one source: scored, or not scored with a reason."""

    item_id: str
    gold: int
    value: float | None
    """By the primary metric; None: not scored."""
    choice_chars: tuple[int, ...] = ()
    pred: int | None = None
    pred_norm: int | None = None
    loglikelihoods_nats: tuple[float, ...] | None = None
    output: str | None = None
    """What the model said, in modes in which it says something."""
    n_truncated_tokens: int = 0
    unscored_reason: str | None = None


def score_item(item: Item, loglikelihoods: Sequence[float], origin: CellOrigin) -> ItemScore:
    """Return the score of one item from its log-likelihoods, shape [C], in nats; errors name the origin.

    Raises:
        ScoringError: If a log-likelihood is not finite, a choice has no characters, or the shapes differ; names model,
            source, target and item.
    """
    try:
        if len(loglikelihoods) != len(item.choices):
            raise ScoringError(f"{len(loglikelihoods)} log-likelihoods for {len(item.choices)} choices")
        pred, pred_norm = (METRICS[name].pick(loglikelihoods, item.measured) for name in ("acc", "acc_norm"))
        value = get_metric(origin.primary_metric).of_item(loglikelihoods, item.measured, item.gold)
    except ScoringError as error:
        raise ScoringError(f"{origin}, item {item.item_id!r}: {error}") from error
    return ItemScore(
        item_id=item.item_id,
        gold=item.gold,
        choice_chars=item.choice_chars,
        value=value,
        pred=pred,
        pred_norm=pred_norm,
        loglikelihoods_nats=tuple(loglikelihoods),
    )


def is_tied(score: ItemScore, metric: str) -> bool:
    """Whether two choices of an item share the best value; an item without log-likelihoods has no tie."""
    sums = score.loglikelihoods_nats
    lengths = score.choice_chars if get_metric(metric).length is len else None
    return sums is not None and len(find_tied_choices(sums, lengths)) > 1


def leave_unscored(item: Item, reason: str) -> ItemScore:
    """Return the record of an item that cannot be scored; it counts neither as right nor as wrong."""
    return ItemScore(
        item_id=item.item_id,
        gold=item.gold,
        choice_chars=item.choice_chars,
        value=None,
        unscored_reason=reason,
    )


def score_rows(origin: CellOrigin, scores: Iterable[ItemScore]) -> pl.DataFrame:
    """Return the rows of the results store for the items of one (source, target) pair."""
    shared = {
        "model": origin.origin.model,
        "seed": origin.origin.seed,
        **source_columns(origin.origin.source),
        "target_task": origin.target.task,
        "target_language": origin.target.language,
        "primary_metric": origin.primary_metric,
        "run_key": origin.run_key,
    }
    return pl.DataFrame([shared | _columns(score) for score in scores], schema=SCORE_SCHEMA)


def _columns(score: ItemScore) -> dict[str, object]:
    """Return the columns that differ from item to item."""
    sums = score.loglikelihoods_nats
    return {
        "item_id": score.item_id,
        "gold": score.gold,
        "value": score.value,
        "output": score.output,
        "pred": score.pred,
        "pred_norm": score.pred_norm,
        "loglikelihoods_nats": None if sums is None else list(sums),
        "choice_chars": list(score.choice_chars),
        "n_truncated_tokens": score.n_truncated_tokens,
        "unscored_reason": score.unscored_reason,
    }
