"""From log-likelihoods to the choice that a metric picks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from transfergrid.grid import UserError

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


class ScoringError(UserError):
    """Items or log-likelihoods that cannot become a score."""
