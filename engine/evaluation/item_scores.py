"""From log-likelihoods to predictions and rows of the results store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from transfergrid.benchmarks.items import Item
from transfergrid.engine.interfaces import ScoringError
from transfergrid.grid import Cell, Source
from transfergrid.store.scores import SCORE_SCHEMA

PrimaryMetric = Literal["acc", "acc_norm"]


def pick_choice(loglikelihoods: Sequence[float], lengths: Sequence[int] | None = None) -> int:
    """Return the index of the best continuation of one item.

    Args:
        loglikelihoods: Shape [C], one per choice, in nats (natural log, each <= 0).
        lengths: Shape [C], characters per choice without the delimiter. None compares raw sums (acc); given, compares
            sum / length (acc_norm).

    Returns:
        Index in 0..C-1; a tie goes to the lowest index.

    Raises:
        ScoringError: If C < 2, the shapes differ, a length is < 1, or a value is not finite.

    Source:
        acc and acc_norm in EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/task.py, ``process_results``.
    """
    values = _normalised(loglikelihoods, lengths)
    return values.index(max(values))


def find_tied_choices(loglikelihoods: Sequence[float], lengths: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the indices of all choices that share the best value, ascending; one index: no tie.

    Takes and raises what ``pick_choice`` does.
    """
    values = _normalised(loglikelihoods, lengths)
    best = max(values)
    return tuple(index for index, value in enumerate(values) if value == best)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOrigin:
    """What all scores of one (source, target) pair have in common."""

    model: str
    """The configuration's name of the base model."""
    seed: int | None
    """Training seed; None for the base."""
    source: Source
    target: Cell
    primary_metric: PrimaryMetric
    run_key: str

    def __str__(self) -> str:
        """Return model, seed, source and target for messages."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"model {self.model!r}{seed}, source {self.source.name!r}, target {self.target.name!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """One item under one source: scored, or not scored with a reason."""

    item_id: str
    gold: int
    choice_chars: tuple[int, ...]
    pred: int | None
    pred_norm: int | None
    loglikelihoods_nats: tuple[float, ...] | None
    n_truncated_tokens: int = 0
    unscored_reason: str | None = None


def score_item(
    item: Item, loglikelihoods: Sequence[float], origin: ScoreOrigin, *, n_truncated_tokens: int = 0
) -> ItemScore:
    """Return the score of one item.

    Args:
        item: The item with its gold choice.
        loglikelihoods: Shape [C], one per choice, in nats.
        origin: Named in errors.
        n_truncated_tokens: Context tokens that were cut.

    Raises:
        ScoringError: If a log-likelihood is not finite, a choice has no characters, or the shapes differ; names model,
            source, target and item.
    """
    try:
        if len(loglikelihoods) != len(item.choices):
            raise ScoringError(f"{len(loglikelihoods)} log-likelihoods for {len(item.choices)} choices")
        pred, pred_norm = pick_choice(loglikelihoods), pick_choice(loglikelihoods, item.choice_chars)
    except ScoringError as error:
        raise ScoringError(f"{origin}, item {item.item_id!r}: {error}") from error
    return ItemScore(
        item_id=item.item_id,
        gold=item.gold,
        choice_chars=item.choice_chars,
        pred=pred,
        pred_norm=pred_norm,
        loglikelihoods_nats=tuple(loglikelihoods),
        n_truncated_tokens=n_truncated_tokens,
    )


def leave_unscored(item: Item, reason: str) -> ItemScore:
    """Return the record of an item that cannot be scored; it counts neither as right nor as wrong."""
    return ItemScore(
        item_id=item.item_id,
        gold=item.gold,
        choice_chars=item.choice_chars,
        pred=None,
        pred_norm=None,
        loglikelihoods_nats=None,
        unscored_reason=reason,
    )


def score_rows(origin: ScoreOrigin, scores: Iterable[ItemScore]) -> pl.DataFrame:
    """Return the rows of the results store for the items of one (source, target) pair."""
    cell = origin.source.cell
    shared = {
        "model": origin.model,
        "seed": None if cell is None else origin.seed,
        "source_task": None if cell is None else cell.task,
        "source_language": None if cell is None else cell.language,
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
        "pred": score.pred,
        "pred_norm": score.pred_norm,
        "loglikelihoods_nats": None if sums is None else list(sums),
        "choice_chars": list(score.choice_chars),
        "n_truncated_tokens": score.n_truncated_tokens,
        "unscored_reason": score.unscored_reason,
    }


def _normalised(loglikelihoods: Sequence[float], lengths: Sequence[int] | None) -> list[float]:
    """Return the values that are compared.

    Raises:
        ScoringError: If there are fewer than 2, the shapes differ, a length is < 1, or a value is not finite.
    """
    if len(loglikelihoods) < 2:
        raise ScoringError(f"{len(loglikelihoods)} log-likelihoods; expected 2 or more choices")
    for index, value in enumerate(loglikelihoods):
        if not math.isfinite(value):
            raise ScoringError(f"log-likelihood of choice {index} is {value!r}; expected a finite number")
    if lengths is None:
        return list(loglikelihoods)
    if len(lengths) != len(loglikelihoods):
        raise ScoringError(f"{len(lengths)} lengths for {len(loglikelihoods)} log-likelihoods; expected one each")
    for index, length in enumerate(lengths):
        if length < 1:
            raise ScoringError(f"choice {index} has {length!r} characters; expected 1 or more")
    return [value / length for value, length in zip(loglikelihoods, lengths, strict=True)]
