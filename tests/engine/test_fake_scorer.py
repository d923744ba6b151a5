from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.fake_scorer import FakeScorer
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import Adapter, Scorer, TokenisedItem
from transfergrid.engine.planning.planner import PlanLimits, plan_items

ITEMS = [
    TokenisedItem(item_id="a", context=(1, 2, 3), continuations=((4, 5), (6,))),
    TokenisedItem(item_id="b", context=(1,), continuations=((4,), (4, 6), (7,))),
]


def adapter(content_hash: str) -> Adapter:
    return Adapter(name=f"cell-{content_hash}", path=Path("nowhere"), content_hash=content_hash, rank=4)


def test_it_is_a_scorer_that_yields_every_item_once() -> None:
    scorer: Scorer = FakeScorer()
    prepared = scorer.prepare(ITEMS)
    assert (prepared.n_items, prepared.n_computed_tokens, prepared.n_repeated_tokens) == (2, 11, 11)
    assert sorted(result.index for result in scorer.score(prepared)) == [0, 1]


def test_numbers_depend_on_tokens_and_weights_only() -> None:
    def sums(which: Adapter | None) -> dict[int, tuple[float, ...]]:
        scorer = FakeScorer()
        return {result.index: result.loglikelihoods_nats for result in scorer.score(scorer.prepare(ITEMS), which)}

    assert sums(adapter("x")) == sums(adapter("x"))
    assert sums(adapter("x")) != sums(adapter("y"))
    assert sums(None) != sums(adapter("x"))
    assert all(-20 < value <= 0 for values in sums(None).values() for value in values)


def test_it_notes_what_was_scored_and_asked_for_in_advance() -> None:
    scorer = FakeScorer(function=lambda item, choice, adapter: -float(choice))
    scorer.prefetch(adapter("x"))
    assert list(scorer.score(scorer.prepare(ITEMS)))[-1].loglikelihoods_nats == (0.0, -1.0)
    list(scorer.score(scorer.prepare(ITEMS), adapter("x")))
    assert (scorer.scored, scorer.prefetched) == ([None, "cell-x"], ["cell-x"])


def test_a_closed_scorer_refuses() -> None:
    scorer = FakeScorer()
    prepared = scorer.prepare(ITEMS)
    scorer.close()
    with pytest.raises(ScoringError, match=r"this scorer is closed; make a new one"):
        next(scorer.score(prepared))


def test_items_of_another_scorer_are_refused() -> None:
    plan = plan_items(ITEMS, PlanLimits(max_step_tokens=8, max_step_sequences=4, n_blocks=9, block_size=4))
    with pytest.raises(ScoringError, match=r"items prepared by another scorer \(Plan\)"):
        next(FakeScorer().score(plan))
