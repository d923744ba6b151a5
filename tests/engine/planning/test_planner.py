from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.plan_simulation import expected_sums, run_plan
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.planning.planner import PlanLimits, plan_items

ROOMY = PlanLimits(max_step_tokens=64, max_step_sequences=16, n_blocks=500, block_size=4)


def item(context: list[int], *continuations: list[int], item_id: str = "q") -> TokenisedItem:
    return TokenisedItem(item_id=item_id, context=tuple(context), continuations=tuple(map(tuple, continuations)))


def random_items(rng: np.random.Generator, n_items: int) -> list[TokenisedItem]:
    """Items of a few tokens over a small alphabet, half of them behind one of two long heads."""
    heads = [rng.integers(0, 3, rng.integers(0, 30)).tolist() for _ in range(2)] + [[], []]
    items = []
    for _ in range(n_items):
        context = heads[rng.integers(4)] + rng.integers(0, 4, rng.integers(1, 12)).tolist()
        choices = [rng.integers(0, 3, rng.integers(1, 7)).tolist() for _ in range(rng.integers(2, 7))]
        items.append(item(context, *choices))
    return items


def unique_prefixes(items: list[TokenisedItem]) -> set[tuple[int, ...]]:
    paths = [it.context + choice[:-1] for it in items for choice in it.continuations]
    return {path[:end] for path in paths for end in range(1, len(path) + 1)}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[TokenisedItem], PlanLimits]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    items = random_items(rng, draw(st.integers(0, 25)))
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    longest = max((len(it.context) + max(map(len, it.continuations)) for it in items), default=1)
    spare = draw(st.sampled_from([0, 1, 3, 1000]))
    return items, PlanLimits(
        max_step_tokens=draw(st.sampled_from([1, 2, 7, 64, 500])),
        max_step_sequences=draw(st.sampled_from([1, 2, 5, 100])),
        n_blocks=-(-longest // block_size) + spare,
        block_size=block_size,
    )


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_any_plan_computes_every_prefix_once_reads_only_its_own_and_scores_every_choice(
    case: tuple[list[TokenisedItem], PlanLimits],
) -> None:
    items, limits = case
    try:
        plan = plan_items(items, limits)
    except ScoringError as error:
        # only a cache that cannot hold one item with a copied block per branch may be refused
        needed = int(re.search(r"needs (\d+) blocks", str(error))[1])  # type: ignore[index]
        assert needed > limits.n_blocks
        plan = plan_items(
            items, PlanLimits(limits.max_step_tokens, limits.max_step_sequences, needed, limits.block_size)
        )
    results, computed = run_plan(plan)
    assert sorted(result.index for result in results) == list(range(len(items)))
    for result in results:
        assert result.loglikelihoods_nats == pytest.approx(expected_sums(items[result.index]), abs=1e-9)
    assert len(computed) == len(set(computed)) == plan.n_computed_tokens == plan.n_unique_tokens
    assert set(computed) == unique_prefixes(items)
    assert plan.peak_blocks <= plan.limits.n_blocks
    assert plan.mean_fill <= 1.0


def test_a_context_runs_on_into_one_choice_and_the_others_branch_off_in_the_next_step() -> None:
    plan = plan_items([item([1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11], [9, 12])], ROOMY)
    first, second = plan.steps
    assert [sequence.token_ids.tolist() for sequence in first.sequences] == [[1, 2, 3, 4, 5, 6, 7]]
    assert first.score_rows.tolist() == [4, 4, 5, 6]
    assert first.score_tokens.tolist() == [6, 9, 7, 8]
    # the last two choices begin alike: one sequence, and one slot for the token they share
    (sequence,) = second.sequences
    assert sequence.token_ids.tolist() == [1, 2, 3, 4, 5, 9, 10]
    assert sequence.n_computed == 5
    assert second.score_rows.tolist() == [0, 0, 1]
    assert second.score_tokens.tolist() == [10, 12, 11]
    assert plan.choice_slots.tolist()[3] == plan.choice_slots.tolist()[6]
    assert (plan.n_computed_tokens, plan.n_repeated_tokens, plan.n_sequences) == (9, 7 + 7 + 6, 2)
    # the branch lies inside the second block: that block is copied, the first is shared
    assert sequence.block_ids[0] == first.sequences[0].block_ids[0]
    assert second.block_copies == ((first.sequences[0].block_ids[1], sequence.block_ids[1]),)


def test_a_branch_on_a_block_boundary_copies_nothing() -> None:
    plan = plan_items([item([1, 2, 3, 4], [5, 6], [7, 8])], ROOMY)
    assert [step.block_copies for step in plan.steps] == [(), ()]
    parent, child = (step.sequences[0] for step in plan.steps)
    # the parent's last block was given back after its step and serves again
    assert parent.block_ids == child.block_ids == (1, 2)


def test_letters_after_one_context_are_one_sequence_with_all_rows_on_its_last_token() -> None:
    plan = plan_items([item([1, 2, 3], [7], [8], [9], [9])], ROOMY)
    (step,) = plan.steps
    assert (len(step.sequences), step.score_rows.tolist(), step.score_tokens.tolist()) == (1, [2, 2, 2], [7, 8, 9])
    assert plan.choice_slots.tolist() == [0, 1, 2, 2]


def test_a_long_sequence_is_cut_over_steps_and_keeps_its_blocks() -> None:
    limits = PlanLimits(max_step_tokens=5, max_step_sequences=4, n_blocks=10, block_size=4)
    plan = plan_items([item(list(range(12)), [3, 4])], limits)
    assert [(s.n_computed, len(s.token_ids)) for step in plan.steps for s in step.sequences] == [
        (0, 5),
        (5, 10),
        (10, 13),
    ]
    assert plan.steps[0].sequences[0].block_ids == plan.steps[2].sequences[0].block_ids[:2]
    assert plan.completed_items[0].tolist() == plan.completed_items[1].tolist() == []
    assert plan.completed_items[2].tolist() == [0]


def test_items_are_finished_nearly_in_their_order() -> None:
    rng = np.random.default_rng(0)
    items = [item([1, 2, 5 + i, *rng.integers(5, 500, 20).tolist()], [3, 4, 5], [4, 5, 6]) for i in range(200)]
    plan = plan_items(items, ROOMY)
    finished = np.concatenate(plan.completed_items)
    assert np.abs(finished - np.arange(len(items))).max() <= 8


def test_few_blocks_are_alive_and_steps_are_full() -> None:
    rng = np.random.default_rng(0)
    head = rng.integers(5, 500, 30).tolist()
    items = [
        item([*head, *rng.integers(5, 500, 20).tolist()], *(rng.integers(5, 500, 6).tolist() for _ in range(4)))
        for _ in range(300)
    ]
    plan = plan_items(items, PlanLimits(max_step_tokens=200, max_step_sequences=64, n_blocks=100_000, block_size=4))
    per_item = 5 + 1 + 4 * 3
    assert plan.peak_blocks <= 8 + per_item * 3 * 200 // 40
    assert plan.mean_fill > 0.95


def test_items_without_tokens_are_refused_by_name() -> None:
    with pytest.raises(
        ScoringError, match=r"item 'q7' cannot be planned; expected 1 or more tokens .* got 2 and \[1, 0\]"
    ):
        plan_items([item([1, 2], [3], [], item_id="q7")], ROOMY)


def test_a_cache_too_small_for_one_item_is_refused() -> None:
    limits = PlanLimits(max_step_tokens=8, max_step_sequences=4, n_blocks=2, block_size=4)
    with pytest.raises(
        ScoringError, match=r"2 blocks of 4 tokens cannot hold an item that needs 3 blocks; raise engine"
    ):
        plan_items([item(list(range(9)), [1], [2])], limits)


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ScoringError, match=r"max_step_sequences=0.* fits no step; expected 1 or more of each"):
        PlanLimits(max_step_tokens=8, max_step_sequences=0, n_blocks=2, block_size=4)


def test_a_choice_that_is_not_finite_gives_nan_for_that_choice_only() -> None:
    plan = plan_items([item([1], [2, 3], [4])], ROOMY)
    logprobs = np.full(plan.n_slots, -1.0, dtype=np.float32)
    logprobs[plan.choice_slots[1]] = np.nan
    ((result),) = plan.loglikelihoods(logprobs, len(plan.steps) - 1)
    assert np.isnan(result.loglikelihoods_nats[0])
    assert result.loglikelihoods_nats[1] == -1.0


def test_sums_are_taken_in_float64() -> None:
    plan = plan_items([item([1], list(range(2, 60)), [4])], ROOMY)
    logprobs = np.full(plan.n_slots, np.float32(-0.1))
    ((result),) = plan.loglikelihoods(logprobs, len(plan.steps) - 1)
    assert result.loglikelihoods_nats[0] == pytest.approx(-58 * float(np.float32(0.1)), rel=1e-15)


def test_a_continuation_is_greedy_where_every_one_of_its_tokens_is() -> None:
    rng = np.random.default_rng(3)
    items = random_items(rng, 20)
    plan = plan_items(items, ROOMY)
    chosen = rng.random(plan.n_slots) < 0.7
    results = [
        result
        for step in range(plan.n_steps)
        for result in plan.loglikelihoods(np.zeros(plan.n_slots, dtype=np.float32), step, chosen)
    ]
    assert len(results) == len(items)
    slots = np.split(chosen[plan.choice_slots], plan.choice_offsets[1:-1])
    for result in results:
        first, end = plan.item_offsets[result.index : result.index + 2]
        assert result.are_greedy == tuple(bool(part.all()) for part in slots[first:end])
