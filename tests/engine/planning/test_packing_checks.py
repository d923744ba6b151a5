"""Steps from a network: what the planner makes passes, everything else is refused before it reaches a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.engine.server.test_scorer import items_of
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.planning.packing import pack_step
from transfergrid.engine.planning.packing_checks import check_packed_step
from transfergrid.engine.planning.planner import PlanLimits, Step, plan_items

LIMITS = PlanLimits(max_step_tokens=64, max_step_sequences=16, n_blocks=64, block_size=16)


def check(packed: bytes) -> int:
    return check_packed_step(packed, LIMITS, vocab_size=320, max_model_len=128)


def steps() -> tuple[Step, ...]:
    return plan_items(items_of(3), LIMITS).steps


def test_every_step_of_a_plan_passes_and_its_scores_are_counted() -> None:
    assert [check(pack_step(step)) for step in steps()] == [len(step.score_rows) for step in steps()]
    assert len(steps()) > 2


def with_sequence(step: Step, **changes: object) -> Step:
    first, *others = step.sequences
    return replace(step, sequences=(replace(first, **changes), *others))  # type: ignore[arg-type]


def tokens(step: Step, value: int) -> np.ndarray:
    changed = step.sequences[0].token_ids.copy()
    changed[0] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda step: with_sequence(step, token_ids=tokens(step, 320)), r"sequence 0 has a token outside 0\.\.319"),
        (lambda step: with_sequence(step, token_ids=tokens(step, -1)), r"sequence 0 has a token outside 0\.\.319"),
        (lambda step: with_sequence(step, block_ids=(0,) * 8), r"sequence 0 has a block outside 1\.\.64"),
        (lambda step: with_sequence(step, block_ids=(65,) * 8), r"sequence 0 has a block outside 1\.\.64"),
        (lambda step: with_sequence(step, block_ids=()), "sequence 0 has 0 blocks of 16 for"),
        (lambda step: with_sequence(step, block_ids=(1,) * 9), "sequence 0 has 9 blocks of 16 for"),
        (lambda step: with_sequence(step, n_computed=500), "has 500 tokens computed of"),
        (lambda step: replace(step, score_rows=step.score_rows + 64), r"a scored row is outside 0\.\."),
        (lambda step: replace(step, score_tokens=step.score_tokens - 400), r"a scored token is outside 0\.\.319"),
        (lambda step: replace(step, block_copies=((1, 65),)), r"a copied block is outside 1\.\.64"),
        (lambda step: replace(step, sequences=step.sequences * 20), "sequences, expected 1 to 16"),
        (lambda step: replace(step, sequences=step.sequences * 3), "new tokens, expected 1 to 64"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(change: Callable[[Step], Step], message: str) -> None:
    step = next(step for step in steps() if len(step.score_rows))
    with pytest.raises(ScoringError, match=message):
        check(pack_step(change(step)))


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 20), slice(0, -4), slice(0, -1)], ids=str)
def test_bytes_of_another_length_are_refused(cut: slice) -> None:
    with pytest.raises(ScoringError, match="bytes are not a packed step"):
        check(pack_step(steps()[0])[cut])


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 0), (1, -5, 0), (2**31 - 1, 0, 0), (1, 2**31 - 1, 2**31 - 1)])
def test_counts_that_lie_are_refused(counts: tuple[int, ...]) -> None:
    values = np.frombuffer(pack_step(steps()[0]), dtype="<i4").copy()
    values[:3] = counts
    with pytest.raises(ScoringError, match="bytes are not a packed step"):
        check(values.tobytes())
