"""What happened to some items on their way to a score: counted in every part's footer, shown to every reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
