"""Solved train items before scored ones: the same in every language, picked in order or by a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfergrid.benchmarks.cells import load_items, shot_ids, with_shots
from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.prompts import PromptConfig
from transfergrid.grid import UserError

_DATA = Path(__file__).parents[2] / "benchmarks_data"


def item(item_id: str, gold: int = 0) -> Item:
    return Item(item_id=item_id, context=f"Q {item_id}:", choices=(f"{item_id} yes", f"{item_id} no"), gold=gold)


TRAIN = [item("a", 1), item("b"), item("c")]


def test_the_first_train_items_stand_solved_before_every_item() -> None:
    (shown,) = with_shots([item("z")], TRAIN, PromptConfig(shots=2))
    assert shown.prompt == "Q a: a no\n\nQ b: b yes\n\nQ z:"
    assert shown.turns == ("Q a:", "a no", "Q b:", "b yes", "Q z:")
    (bare,) = with_shots([item("z")], TRAIN, PromptConfig())
    assert (bare, bare.prompt, bare.turns) == (item("z"), "Q z:", ("Q z:",))


def test_an_item_that_asks_the_same_as_a_shot_does_not_see_its_answer() -> None:
    (shown,) = with_shots([item("b")], TRAIN, PromptConfig(shots=2))
    assert shown.prompt == "Q a: a no\n\nQ b:"


def test_a_seed_picks_the_same_shots_in_every_language_and_whatever_the_order() -> None:
    prompts = PromptConfig(shots=3, shots_seed=5)
    task = get_task("arc_challenge")
    picked = {
        tuple(shot_ids(load_items(_DATA, task, language, "train", "eval"), prompts)) for language in ("de", "hi", "zh")
    }
    assert len(picked) == 1
    assert sorted(shot_ids(TRAIN, prompts)) == ["a", "b", "c"]
    assert shot_ids(TRAIN[::-1], prompts) == shot_ids(TRAIN, prompts)
    assert len({tuple(shot_ids(TRAIN, PromptConfig(shots=3, shots_seed=seed))) for seed in range(9)}) > 1


def test_more_shots_than_train_items_are_refused() -> None:
    with pytest.raises(UserError, match=r"prompts\.shots is 4, and a cell has 3 train items; lower it"):
        with_shots([item("z")], TRAIN, PromptConfig(shots=4))
