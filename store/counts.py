"""What a part's footer says of a cell; what happened to some items on their way to a score, shown to every reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

COUNTS: Mapping[str, str] = {
    "n_unscored": "items not scored",
    "n_tied": "items with tied best choices",
    "n_truncated": "items with a context that was cut",
    "n_not_prefix": "choices whose first token reaches into the context",
    "n_encoded_apart": "choices encoded apart from their context",
}
"""Counts of a cell's record and what they count."""


def sum_counts(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the counts over some cells' records; a count that an older record lacks adds nothing."""
    sums = dict.fromkeys(COUNTS, 0)
    for record in records:
        for name in COUNTS:
            sums[name] += record.get(name) or 0
    return sums


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return all counts as one line."""
    return "; ".join(f"{counts[name]:,} {words}" for name, words in COUNTS.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What a part's footer says about one of its cells."""

    target: str
    run_key: str
    items_hash: str
    n_items: int
    n_unscored: int
    n_to_retry: int
    """Unscored items that another attempt could score: those whose log-likelihood was not finite."""
    wall_s: float
    n_computed_tokens: int
    n_repeated_tokens: int
    n_tied: int | None = None
    """Scored items whose best value by the primary metric two choices share; this and the next are None in parts that
    were written before they were counted."""
    n_truncated: int | None = None
    """Items whose context was cut on the left."""
    n_not_prefix: int | None = None
    """(item, choice) pairs whose context, encoded alone, is not the start of the joint encoding."""
    n_encoded_apart: int | None = None
    """(item, choice) pairs whose choice has no token of its own in the joint encoding."""
    device: str | None = None
    """Name of the device that scored it; None where it is not known."""
    start: int | None = None
    """Of a slice of a cell: its first item's place in the seeded order of `store.adaptive`; None: the whole cell."""
    n_all: int | None = None
    """Of a slice: items of the cell."""
    n_planned: int | None = None
    """Of a slice: items that the pair gets unless it is stopped."""
