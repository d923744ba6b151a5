"""Items in parts are asked once where they are equal, and joined: windows add up, greedy matches are all of them."""

from __future__ import annotations

import pytest

from tests.engine.fake_scorer import FakeScorer, hashed_loglikelihood
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.evaluation.asking import PartedItems, prepare_items, score_items
from transfergrid.engine.interfaces import TokenisedItem, asked_parts
from transfergrid.engine.scorers.prepared import refuse_greedy


def part(context: tuple[int, ...], text: tuple[int, ...]) -> TokenisedItem:
    return TokenisedItem(item_id="", context=context, continuations=(text,))


def asked(name: str, *requests: tuple[TokenisedItem, ...], greedy: bool = False) -> TokenisedItem:
    return TokenisedItem(item_id=name, context=(), continuations=(), requests=requests, asks_greedy=greedy)


SHARED = part((0,), (7, 8))
ITEMS = [
    asked("two prompts", (part((1, 2), (7, 8)),), (part((1, 3), (7, 8)),)),
    asked("with windows", (part((0,), (4, 5)), part((5,), (6,))), (SHARED,)),
    asked("again", (part((1, 2), (9,)),), (SHARED,)),
    TokenisedItem(item_id="usual", context=(1, 2), continuations=((9,), (3, 4))),
]


def test_equal_parts_are_asked_once_and_items_are_the_sums_of_their_windows() -> None:
    scorer = FakeScorer()
    prepared = prepare_items(scorer, ITEMS)
    assert isinstance(prepared, PartedItems)
    assert (prepared.n_items, prepared.parts.n_items) == (4, 7)  # two of the nine parts were there already
    assert prepared.n_repeated_tokens == sum(
        len(each.context) + len(text) - 1 for each in asked_parts(ITEMS) for text in each.continuations
    )
    found = {result.index: result for result in score_items(scorer, prepared, None)}
    assert sorted(found) == [0, 1, 2, 3]
    for index, item in enumerate(ITEMS[:3]):
        slow = [sum(hashed_loglikelihood(window, 0, None) for window in windows) for windows in item.requests]
        assert found[index].loglikelihoods_nats == pytest.approx(slow)
        assert found[index].are_greedy is None
    assert found[3].loglikelihoods_nats == tuple(hashed_loglikelihood(ITEMS[3], choice, None) for choice in (0, 1))


def test_a_text_is_greedy_where_all_its_windows_are() -> None:
    scorer = FakeScorer(lambda item, choice, adapter: -1.0 if item.context == (0,) else -11.0)  # -10 parts them
    windows = (part((0,), (4, 5)), part((5,), (6,)))
    items = [asked("first", windows[:1], greedy=True), asked("both", windows, greedy=True)]
    found = {result.index: result.are_greedy for result in score_items(scorer, prepare_items(scorer, items), None)}
    assert found == {0: (True,), 1: (False,)}


def test_items_with_one_context_are_prepared_as_they_are() -> None:
    scorer = FakeScorer()
    prepared = prepare_items(scorer, ITEMS[3:])
    assert not isinstance(prepared, PartedItems)
    assert [result.index for result in score_items(scorer, prepared, None)] == [0]


def test_an_engine_that_cannot_say_what_is_greedy_refuses() -> None:
    refuse_greedy(False, "server")
    with pytest.raises(ScoringError, match="engine 'server' does not say whether greedy decoding would give a text"):
        refuse_greedy(True, "server")
