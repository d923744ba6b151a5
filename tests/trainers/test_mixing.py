"""The order and number of a mixture's examples."""

from __future__ import annotations

from collections import Counter

import pytest

from transfergrid.grid import UserError
from transfergrid.trainers.examples import CellData, TrainingExample, hash_examples, mix_cells


def cell(number: int, n_train: int, n_validation: int = 2) -> CellData:
    """Example i of cell c has the token ids (c, i); validation examples count on."""
    examples = [TrainingExample((number, place), (number, place)) for place in range(n_train + n_validation)]
    return CellData(tuple(examples[:n_train]), tuple(examples[n_train:]), hash_examples(examples))


@pytest.mark.parametrize("budget", ["same", "all"])
def test_a_mixture_of_one_cell_is_the_cell(budget: str) -> None:
    alone = cell(0, 9)
    assert mix_cells([alone], budget, 17) == alone


def test_the_same_budget_has_every_place_of_one_cell_once_shared_out_evenly() -> None:
    mixed = mix_cells([cell(0, 10), cell(1, 10), cell(2, 11)], "same", 17)
    assert [example.input_ids[1] for example in mixed.train] == list(range(10))
    assert sorted(Counter(example.input_ids[0] for example in mixed.train).values()) == [3, 3, 4]
    assert len(mixed.validation) == 2


def test_the_whole_budget_has_every_example_in_its_cells_order() -> None:
    parts = [cell(0, 4), cell(1, 7)]
    mixed = mix_cells(parts, "all", 17)
    for number, part in enumerate(parts):
        assert tuple(each for each in mixed.train if each.input_ids[0] == number) == part.train
        assert tuple(each for each in mixed.validation if each.input_ids[0] == number) == part.validation
    owners = [each.input_ids[0] for each in mixed.train]
    assert owners != sorted(owners)


@pytest.mark.parametrize("budget", ["same", "all"])
def test_the_seed_decides_the_order(budget: str) -> None:
    parts = [cell(0, 20), cell(1, 20)]
    first, again, other = (mix_cells(parts, budget, seed) for seed in (17, 17, 42))
    assert first == again
    assert first.train != other.train
    assert first.data_hash != other.data_hash


def test_more_cells_than_items_are_refused() -> None:
    with pytest.raises(UserError, match=r"its 3 cells cannot share 2 train items, as many as the smallest of them has"):
        mix_cells([cell(0, 2), cell(1, 5), cell(2, 5)], "same", 17)
