"""Which examples of a batch are computed together: groups of like length, so that little padding is computed.

A step's gradient is the sum over its groups, so the grouping changes time and memory and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MicrobatchLimits:
    """How much a device computes at once."""

    max_tokens: int
    """Most tokens of a group, padding included; a longer single example is a group of its own."""
    overhead_tokens: int
    """What starting another group costs, in tokens that could have been computed instead."""

    def shrunk(self, share: float) -> MicrobatchLimits:
        """Return the limits for a batch that memory cut to a share of what was asked for."""
        return MicrobatchLimits(max(1, int(share * self.max_tokens)), self.overhead_tokens)


LIMITS = {"cpu": MicrobatchLimits(1024, 64), "cuda": MicrobatchLimits(16384, 2048)}
"""On a CPU products of few rows are slow (figures in docs/performance.md); a GPU wants all at once."""


def group_by_length(lengths: Sequence[int], limits: MicrobatchLimits) -> list[tuple[int, ...]]:
    """Split a batch into groups of like length at the least cost.

    The cost of a group is its size times its longest length, plus the overhead. The best split of examples sorted by
    length into runs is found by dynamic programming over the end of the last run.

    Returns:
        Indices into ``lengths``, every one once, longest group first.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    best_cost, best_start = [0], [0]
    for end in range(1, len(order) + 1):
        costs = []
        for start in range(end - 1, -1, -1):
            tokens = (end - start) * lengths[order[start]]
            if end - start > 1 and tokens > limits.max_tokens:
                break
            costs.append((best_cost[start] + tokens + limits.overhead_tokens, start))
        cost, start = min(costs)
        best_cost.append(cost)
        best_start.append(start)
    groups = []
    end = len(order)
    while end:
        groups.append(tuple(order[best_start[end] : end]))
        end = best_start[end]
    return groups[::-1]
