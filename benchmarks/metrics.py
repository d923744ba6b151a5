"""Metrics: from the log-likelihoods of an item's choices to the item's value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from transfergrid.grid import UserError


class ScoringError(UserError):
    """Items or log-likelihoods that cannot become a score."""


def pick_choice(loglikelihoods: Sequence[float], lengths: Sequence[int] | None = None) -> int:
    """Return the index of the best continuation of one item.

    Args:
        loglikelihoods: Shape [C], one per choice, in nats (natural log, each <= 0).
        lengths: Shape [C], length per choice without the delimiter. None compares raw sums (acc); given, compares
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


def is_right(compared: Sequence[float], gold: int) -> float:
    """Return 1 where the best of the compared values is the gold choice's, else 0; a tie goes to the lowest index."""
    return float(max(range(len(compared)), key=compared.__getitem__) == gold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How an item gets its value; the score of a cell is the mean over its items, in 0..1."""

    length: Callable[[str], int] | None = None
    """Measures a choice; its log-likelihood is divided by this before choices are compared. None: not divided."""
    value: Callable[[Sequence[float], int], float] = is_right
    """Takes the compared values, shape [C], and the index of the gold choice; returns the item's value in 0..1."""
    is_graded: bool = False
    """Whether values lie between 0 and 1 too; counts of right items and McNemar's test then leave the metric out."""
    higher_is_better: bool = True
    """Whether a higher value is better; a delta is always positive where the adapter helps."""

    def of_item(self, loglikelihoods: Sequence[float], choices: Sequence[str], gold: int) -> float:
        """Return the value of one item.

        Args:
            loglikelihoods: Shape [C], in nats.
            choices: Shape [C], without the delimiter.
            gold: Index of the right choice.

        Raises:
            ScoringError: See `pick_choice`; or if the value is not in 0..1.
        """
        value = self.value(_normalised(loglikelihoods, self._lengths(choices)), gold)
        if not 0 <= value <= 1:
            raise ScoringError(f"the metric's value is {value!r}; expected a number from 0 to 1")
        return value

    def pick(self, loglikelihoods: Sequence[float], choices: Sequence[str]) -> int:
        """Return the index of the choice that compares best; takes and raises what `of_item` does."""
        return pick_choice(loglikelihoods, self._lengths(choices))

    def _lengths(self, choices: Sequence[str]) -> list[int] | None:
        return None if self.length is None else list(map(self.length, choices))


def _of_the_harness(compared: Sequence[float], gold: int) -> float:
    raise ScoringError(
        "the metrics 'lm_eval' and 'lm_eval_acc' are of tasks of lm-evaluation-harness alone; expected 'acc' or "
        "'acc_norm'"
    )


METRICS: dict[str, Metric] = {
    "acc": Metric(),
    "acc_norm": Metric(length=len),
    "lm_eval": Metric(value=_of_the_harness, is_graded=True),
    "lm_eval_acc": Metric(value=_of_the_harness),
}
"""Metrics by the name that a task's ``primary_metric`` gives."""


def get_metric(name: str) -> Metric:
    """Return a metric.

    Raises:
        UserError: If no metric has that name.
    """
    if name not in METRICS:
        raise UserError(f"unknown metric {name!r}; expected one of {sorted(METRICS)}")
    return METRICS[name]


def lower_is_better() -> list[str]:
    """Return the names of the metrics whose lower values are better."""
    return [name for name, metric in METRICS.items() if not metric.higher_is_better]


class Aggregation(NamedTuple):
    """What lm-evaluation-harness makes of what a task's function says of its documents."""

    of_item: Callable[[Any], float]
    """The value of one document in our store, 0..1, higher is better; of a perplexity its inverse."""
    of_all: Callable[[Sequence[Any]], float]
    """The harness' own number for all documents."""


def _weighted(values: Sequence[tuple[float, float]]) -> float:
    """Return summed log-likelihoods by summed weights, which are numbers of words or bytes."""
    return math.fsum(value for value, _ in values) / math.fsum(weight for _, weight in values)


AGGREGATIONS: dict[str, Aggregation] = {
    "mean": Aggregation(float, fmean),
    "perplexity": Aggregation(math.exp, lambda values: math.exp(-fmean(values))),
    "weighted_perplexity": Aggregation(
        lambda pair: math.exp(_weighted([pair])), lambda values: math.exp(-_weighted(values))
    ),
    "bits_per_byte": Aggregation(
        lambda pair: math.exp(_weighted([pair])), lambda values: -_weighted(values) / math.log(2)
    ),
}
"""By the harness' name. Source: lm_eval/api/metrics.py of EleutherAI/lm-evaluation-harness 0.4.13."""
