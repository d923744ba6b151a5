from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfergrid.trainers.sft.microbatches import MicrobatchLimits, group_by_length

lengths_strategy = st.lists(st.integers(1, 60), min_size=1, max_size=7)
limits_strategy = st.builds(MicrobatchLimits, st.integers(1, 200), st.integers(0, 50))


def cost(groups: list[tuple[int, ...]], lengths: list[int], limits: MicrobatchLimits) -> float:
    sizes = [len(group) * max(lengths[index] for index in group) for group in groups]
    fits = all(size <= limits.max_tokens or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    return sum(sizes) + limits.overhead_tokens * len(groups) if fits else float("inf")


def partitions(items: list[int]) -> Iterator[list[tuple[int, ...]]]:
    """Every way to split a list into groups, contiguous or not."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for smaller in partitions(rest):
        yield [(first,), *smaller]
        for at, group in enumerate(smaller):
            yield [*smaller[:at], (first, *group), *smaller[at + 1 :]]


@given(lengths_strategy, limits_strategy)
def test_no_other_grouping_costs_less(lengths: list[int], limits: MicrobatchLimits) -> None:
    groups = group_by_length(lengths, limits)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    best = min(cost(other, lengths, limits) for other in partitions(list(range(len(lengths)))))
    assert cost(groups, lengths, limits) == best


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (MicrobatchLimits(1000, 1000), [(1, 3, 0, 2)]),  # starting a group is dear: one group
        (MicrobatchLimits(1000, 1), [(1,), (3,), (0, 2)]),  # padding is dear: like with like
        (MicrobatchLimits(90, 1000), [(1,), (3, 0, 2)]),  # little room
    ],
)
def test_groups_follow_the_devices_limits(limits: MicrobatchLimits, expected: list[tuple[int, ...]]) -> None:
    assert group_by_length([10, 90, 10, 30], limits) == expected


def test_a_batch_that_memory_halved_is_validated_in_smaller_groups_too() -> None:
    assert MicrobatchLimits(256, 32).shrunk(0.25) == MicrobatchLimits(64, 32)
    assert MicrobatchLimits(2, 32).shrunk(0.125) == MicrobatchLimits(1, 32)
