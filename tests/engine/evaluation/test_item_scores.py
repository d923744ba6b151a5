from __future__ import annotations

import math
from typing import Any

import pytest

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.metrics import ScoringError, find_tied_choices, pick_choice
from transfergrid.engine.evaluation.item_scores import CellOrigin, is_tied, leave_unscored, score_item, score_rows
from transfergrid.grid import BASE, Cell, Source
from transfergrid.store.score_store import Origin
from transfergrid.store.scores import SCORE_SCHEMA

SOURCE = Source.of(Cell("arc_challenge", "de"), 17)


def origin(source: Source = SOURCE) -> CellOrigin:
    return CellOrigin(
        origin=Origin("tiny", source),
        target=Cell("hellaswag", "hi"),
        primary_metric="acc_norm",
        run_key="k1",
    )


def item(*choices: str, gold: int = 0) -> Item:
    return Item(item_id="q1", context="Is it?", choices=choices, gold=gold)


def test_pick_choice_takes_the_highest_sum() -> None:
    assert pick_choice([-3.0, -1.5, -2.0]) == 1


def test_pick_choice_length_normalisation_can_flip_the_answer() -> None:
    # by hand: -6 / 2 = -3.0 loses to -8 / 4 = -2.0
    assert pick_choice([-6.0, -8.0]) == 0
    assert pick_choice([-6.0, -8.0], lengths=[2, 4]) == 1


def test_a_tie_goes_to_the_lowest_index_and_is_found() -> None:
    assert pick_choice([-2.0, -1.0, -1.0]) == 1
    assert find_tied_choices([-2.0, -1.0, -1.0]) == (1, 2)
    assert find_tied_choices([-2.0, -1.0, -1.5]) == (1,)
    assert find_tied_choices([-2.0, -4.0, -9.0], lengths=[1, 2, 3]) == (0, 1)


@pytest.mark.parametrize(
    ("choices", "characters"),
    [
        (("الماء", "النار"), (5, 5)),
        (("জল", "আগুন"), (2, 4)),
        (("पानी", "आग"), (4, 2)),
        (("水", "火焰"), (1, 2)),
        (("water", "fire"), (5, 4)),
    ],
)
def test_choices_are_as_long_as_their_code_points_in_every_script(
    choices: tuple[str, ...], characters: tuple[int, ...]
) -> None:
    score = score_item(item(*choices), [-4.0, -4.0], origin())
    assert score.choice_chars == characters
    # with equal sums the longer choice has the higher mean; a tie goes to the first
    assert score.pred == 0
    assert score.pred_norm == max((0, 1), key=lambda index: characters[index])


@pytest.mark.parametrize(
    ("loglikelihoods", "lengths", "message"),
    [
        ([-1.0], None, r"1 log-likelihoods; expected 2 or more choices"),
        ([-1.0, math.nan], None, r"log-likelihood of choice 1 is nan; expected a finite number"),
        ([-math.inf, -1.0], None, r"log-likelihood of choice 0 is -inf; expected a finite number"),
        ([-1.0, -2.0], [1], r"1 lengths for 2 log-likelihoods; expected one each"),
        ([-1.0, -2.0], [1, 0], r"choice 1 has 0 characters; expected 1 or more"),
    ],
)
def test_pick_choice_refuses(loglikelihoods: list[float], lengths: Any, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        pick_choice(loglikelihoods, lengths)
    with pytest.raises(ScoringError, match=message):
        find_tied_choices(loglikelihoods, lengths)


def test_a_score_that_is_not_finite_names_model_seed_source_target_and_item() -> None:
    with pytest.raises(
        ScoringError,
        match=r"model 'tiny', seed 17, source 'arc_challenge-de', target 'hellaswag-hi', item 'q1': "
        r"log-likelihood of choice 1 is nan",
    ):
        score_item(item("a", "b"), [-1.0, math.nan], origin())


def test_a_choice_without_characters_is_an_error_with_the_items_id() -> None:
    with pytest.raises(ScoringError, match=r"source 'base', .*item 'q1': choice 1 has 0 characters"):
        score_item(item("a", ""), [-1.0, -2.0], origin(BASE))


def test_a_missing_loglikelihood_is_an_error() -> None:
    with pytest.raises(ScoringError, match=r"item 'q1': 2 log-likelihoods for 3 choices"):
        score_item(item("a", "b", "c"), [-1.0, -2.0], origin())


def test_scores_become_rows_of_the_store() -> None:
    rows = score_rows(origin(), [score_item(item("ab", "cdef", gold=1), [-6.0, -8.0], origin())])
    assert rows.schema == SCORE_SCHEMA
    assert rows.row(0, named=True) == {
        "model": "tiny",
        "seed": 17,
        "source_task": "arc_challenge",
        "source_language": "de",
        "target_task": "hellaswag",
        "target_language": "hi",
        "item_id": "q1",
        "gold": 1,
        "pred": 0,
        "pred_norm": 1,
        "loglikelihoods_nats": [-6.0, -8.0],
        "choice_chars": [2, 4],
        "n_truncated_tokens": 0,
        "primary_metric": "acc_norm",
        "unscored_reason": None,
        "run_key": "k1",
        "value": 1.0,
        "output": None,
        "source": "arc_challenge-de",
        "source_kind": "cell",
        "source_cells": "arc_challenge-de",
    }


def test_rows_of_the_base_have_neither_seed_nor_source() -> None:
    row = score_rows(origin(BASE), [score_item(item("a", "b"), [-1.0, -2.0], origin(BASE))])
    assert row.select("seed", "source_task", "source_language").row(0) == (None, None, None)


def test_an_unscored_item_has_a_reason_and_no_prediction() -> None:
    row = score_rows(origin(), [leave_unscored(item("a", "b"), "too long")]).row(0, named=True)
    assert (row["pred"], row["pred_norm"], row["loglikelihoods_nats"]) == (None, None, None)
    assert (row["unscored_reason"], row["gold"]) == ("too long", 0)


def test_no_items_give_an_empty_table_with_all_columns() -> None:
    assert score_rows(origin(), []).schema == SCORE_SCHEMA


def test_a_tie_is_one_of_the_metric_that_counts() -> None:
    for sums, acc, acc_norm in (([-2.0, -2.0], True, False), ([-2.0, -4.0], False, True), ([-2.0, -3.0], False, False)):
        score = score_item(item("ab", "abcd"), sums, origin())
        assert (is_tied(score, "acc"), is_tied(score, "acc_norm")) == (acc, acc_norm)
    assert not is_tied(leave_unscored(item("ab", "abcd"), "too long"), "acc")
