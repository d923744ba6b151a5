"""What a runner reads of a step equals what plain loops over tokens and sequences give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.server.test_scorer import items_of
from transfergrid.engine.planning.packing import pack_step, unpack_step
from transfergrid.engine.planning.planner import PlanLimits, Step, plan_items
from transfergrid.engine.planning.step_inputs import StepInputs, step_inputs

LIMITS = PlanLimits(max_step_tokens=64, max_step_sequences=16, n_blocks=64, block_size=16)
WIDTH = 8


def steps() -> tuple[Step, ...]:
    return plan_items(items_of(8), LIMITS).steps


def inputs_of(step: Step, short_tokens: int | None = None) -> StepInputs:
    packed = unpack_step(pack_step(step))
    return step_inputs(packed, block_size=LIMITS.block_size, table_width=WIDTH, short_tokens=short_tokens)


def scores_of(step: Step) -> list[tuple[int, int, int]]:
    """(sequence, position, scored token) of every score, by loops."""
    places = [
        (number, at)
        for number, sequence in enumerate(step.sequences)
        for at in range(sequence.n_computed, len(sequence.token_ids))
    ]
    return [(*places[row], token) for row, token in zip(step.score_rows, step.score_tokens.tolist(), strict=True)]


@pytest.mark.parametrize("step", steps(), ids=lambda step: f"{len(step.sequences)}-sequences")
@pytest.mark.parametrize("short_tokens", [None, 1, 8])
def test_inputs_equal_what_loops_give(step: Step, short_tokens: int | None) -> None:
    def kind(number: int) -> int:
        sequence = step.sequences[number]
        n_new = len(sequence.token_ids) - sequence.n_computed
        return 2 if not sequence.n_computed else int(short_tokens is not None and n_new > short_tokens)

    order = list(range(len(step.sequences)))
    if short_tokens is not None:
        order.sort(key=kind)
    inputs, at = inputs_of(step, short_tokens), 0
    for place, number in enumerate(order):
        sequence = step.sequences[number]
        positions = range(sequence.n_computed, len(sequence.token_ids))
        here = slice(at, at + len(positions))
        assert inputs.query_starts[place] == at
        assert inputs.sequence_lengths[place] == len(sequence.token_ids)
        assert inputs.positions[here].tolist() == list(positions)
        assert inputs.token_ids[here].tolist() == sequence.token_ids[sequence.n_computed :].tolist()
        assert inputs.slot_mapping[here].tolist() == [sequence.block_ids[p // 16] * 16 + p % 16 for p in positions]
        row = inputs.block_table[place].tolist()
        assert row == [*sequence.block_ids, *[0] * (WIDTH - len(sequence.block_ids))]
        at += len(positions)
    assert inputs.query_starts[-1] == at == len(inputs.token_ids)
    assert inputs.block_copies.T.tolist() == [list(copy) for copy in step.block_copies]
    first_written = [block for each in step.sequences for block in each.block_ids[-(-each.n_computed // 16) :]]
    assert sorted(inputs.new_blocks.tolist()) == sorted(first_written)
    rows = inputs.scored_rows[inputs.score_owners]
    owners = np.searchsorted(inputs.query_starts, rows, side="right") - 1
    found = zip([order[owner] for owner in owners], inputs.positions[rows], inputs.score_tokens, strict=True)
    assert [tuple(map(int, score)) for score in found] == scores_of(step)


def test_every_scored_row_is_listed_once_with_the_first_of_its_scores() -> None:
    step = next(step for step in steps() if len(np.unique(step.score_rows)) < len(step.score_rows))
    inputs = inputs_of(step)
    assert inputs.scored_rows.tolist() == np.unique(step.score_rows).tolist()
    assert inputs.first_scores.tolist() == [
        *(step.score_rows.tolist().index(row) for row in inputs.scored_rows),
        len(step.score_rows),
    ]


def test_a_step_without_scores_gives_no_rows() -> None:
    none = np.empty(0, dtype=np.int32)
    inputs = inputs_of(replace(steps()[0], score_rows=none, score_tokens=none, score_slots=none))
    assert len(inputs.scored_rows) == len(inputs.score_owners) == len(inputs.score_tokens) == 0
    assert inputs.first_scores.tolist() == [0]
