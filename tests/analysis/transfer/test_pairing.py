import numpy as np
import polars as pl
import pytest

from tests.analysis.synthetic import MODELS, SEEDS, cells, item_frame, item_row, item_rows
from transfergrid.analysis.records import TARGET as TARGET_COLUMNS
from transfergrid.analysis.transfer.pairing import merge_blocks, observe
from transfergrid.grid import Cell, UserError

SOURCE, TARGET = Cell("arc_challenge", "de"), Cell("global_mmlu", "de")


def scores(*rows: dict[str, object]) -> pl.LazyFrame:
    return item_frame(rows).lazy()


def answers(base: list[int], adapter: list[int], seed: int = 1) -> list[dict[str, object]]:
    """Rows of one adapter on one target; 0 is right."""
    return [
        *(item_row("m", None, None, TARGET, item, pred) for item, pred in enumerate(base)),
        *(item_row("m", seed, SOURCE, TARGET, item, pred) for item, pred in enumerate(adapter)),
    ]


def test_wins_and_losses_by_item_by_hand() -> None:
    # item by item: both, only base, only adapter, only adapter, none
    (found,) = observe(scores(*answers([0, 0, 1, 2, 1], [0, 1, 0, 0, 2])))
    row = found.rows.row(0, named=True)
    assert [row[name] for name in ("n_items", "n_both", "n_only_base", "n_only_adapter")] == [5, 1, 1, 2]
    assert (row["base_acc"], row["adapter_acc"]) == (0.4, 0.6)
    assert found.blocks[0].differences.tolist() == [[0, -1, 1, 1, 0]]


def test_counts_equal_a_slow_loop_over_rows() -> None:
    rows = item_rows()
    right = {
        (
            r["model"],
            r["seed"],
            r["source"],
            r["target_task"],
            r["target_language"],
            r["item_id"],
        ): r["pred"] == r["gold"]
        for r in rows.iter_rows(named=True)
    }
    for found in observe(rows.lazy()):
        for row in found.rows.iter_rows(named=True):
            target = (row["target_task"], row["target_language"])
            items = [f"q{item:03d}" for item in range(12)]
            base = [right[(row["model"], None, "base", *target, item)] for item in items]
            adapter = [right[(row["model"], row["seed"], row["source"], *target, item)] for item in items]
            assert row["n_only_base"] == sum(b and not a for b, a in zip(base, adapter, strict=True))
            assert row["n_only_adapter"] == sum(a and not b for b, a in zip(base, adapter, strict=True))
            assert row["n_both"] == sum(a and b for b, a in zip(base, adapter, strict=True))


def test_item_differences_are_means_over_seeds() -> None:
    rows = [*answers([0, 1, 1], [1, 0, 1], seed=1), *answers([0, 1, 1], [0, 0, 1], seed=2)[3:]]
    (found,) = observe(scores(*rows))
    assert found.blocks[0].differences.tolist() == [[-0.5, 1.0, 0.0]]
    assert found.blocks[0].scored.all()


def test_the_order_of_rows_does_not_matter() -> None:
    rows = item_rows()
    first, second = (list(observe(each.lazy())) for each in (rows, rows.sample(fraction=1, shuffle=True, seed=1)))
    for one, other in zip(first, second, strict=True):
        keys = ["seed", "source", *TARGET_COLUMNS]
        assert one.rows.sort(keys).equals(other.rows.sort(keys))
        for block, twin in zip(one.blocks, other.blocks, strict=True):
            assert block.item_ids == twin.item_ids
            assert np.array_equal(block.differences, twin.differences)


def test_merged_blocks_keep_every_models_items() -> None:
    observed = list(observe(item_rows().lazy()))
    merged = merge_blocks([block for each in observed for block in each.blocks])
    assert [block.task for block in merged] == ["arc_challenge", "global_mmlu"]
    n_rows = len(MODELS) * len(cells()) * 3
    assert merged[0].differences.shape == (n_rows, 12)
    assert merged[0].keys["model"].unique().sort().to_list() == sorted(MODELS)


def test_models_with_different_items_share_the_union_of_columns() -> None:
    rows = [*answers([0, 1], [1, 0]), *({**row, "model": "n"} for row in answers([0, 1, 1], [1, 1, 0]))]
    merged = merge_blocks([block for each in observe(scores(*rows)) for block in each.blocks])
    assert merged[0].differences.tolist() == [[-1, 1, 0], [-1, 0, 1]]
    assert merged[0].scored.tolist() == [[True, True, False], [True, True, True]]


def test_unscored_items_are_left_out_and_counted() -> None:
    rows = answers([0, 0, 1], [0, 1, 0])
    rows[4] |= {"pred": None, "pred_norm": None, "loglikelihoods_nats": None, "unscored_reason": "too long"}
    (found,) = observe(scores(*rows))
    row = found.rows.row(0, named=True)
    assert (row["n_items"], row["n_unscored"], row["unscored_reason"]) == (2, 1, "too long")
    assert (row["n_only_base"], row["n_only_adapter"]) == (0, 1)
    assert found.blocks[0].scored.tolist() == [[True, False, True]]


def test_ties_are_counted_by_the_primary_metric() -> None:
    rows = answers([0, 0], [0, 0])
    # sums tie at -4; per character they do not: -4/2 against -4/8
    rows[2] |= {"loglikelihoods_nats": [-4.0, -4.0, -9.0], "choice_chars": [2, 8, 3]}
    (plain,) = observe(scores(*rows))
    (norm,) = observe(scores(*({**row, "primary_metric": "acc_norm"} for row in rows)))
    assert plain.rows["n_ties"].to_list() == [1]
    assert norm.rows["n_ties"].to_list() == [0]
    assert plain.rows["n_ties_base"].to_list() == [0]
    rows[2] |= {"loglikelihoods_nats": None, "choice_chars": []}  # an imported item may have none
    (unknown,) = observe(scores(*rows))
    assert unknown.rows.select("n_ties", "n_ties_base", "n_items").rows() == [(None, 0, 2)]


def test_the_score_is_the_primary_metric() -> None:
    rows = [{**row, "primary_metric": "acc_norm"} for row in answers([1, 1], [1, 1])]
    rows[2] |= {"pred_norm": 0}
    (found,) = observe(scores(*rows))
    assert found.rows["n_only_adapter"].to_list() == [1]
    assert found.rows["adapter_acc"].to_list() == [0.0]
    assert found.rows["adapter_acc_norm"].to_list() == [0.5]


def test_an_item_of_an_adapter_that_stands_there_twice_is_refused() -> None:
    rows = answers([0, 1], [1, 0])
    with pytest.raises(UserError, match="model 'm': an adapter has item 'q001' of 'global_mmlu-de' more than once"):
        list(observe(scores(*rows, rows[-1])))


def test_an_unpaired_item_that_stands_there_twice_is_refused() -> None:
    rows = answers([], [0])
    with pytest.raises(UserError, match="an adapter has item 'q000'"):
        list(observe(scores(*rows, rows[-1])))


def test_an_item_of_the_baseline_that_stands_there_twice_is_refused() -> None:
    rows = answers([0, 1], [1, 0])
    with pytest.raises(UserError, match="the baseline has item 'q000' of 'global_mmlu-de' more than once"):
        list(observe(scores(*rows, rows[0])))


def test_another_gold_for_adapter_and_baseline_is_refused() -> None:
    rows = answers([0, 1], [1, 0])
    rows[2] |= {"gold": 1}
    with pytest.raises(UserError, match="item 'q000' of 'global_mmlu-de' has gold 1 for an adapter and 0"):
        list(observe(scores(*rows)))


def test_two_primary_metrics_of_one_target_are_refused() -> None:
    rows = answers([0, 1], [1, 0])
    rows[0] |= {"primary_metric": "acc_norm"}
    with pytest.raises(
        UserError, match=r"target 'global_mmlu-de' of model 'm' has the primary metrics \['acc', 'acc_norm'\]"
    ):
        list(observe(scores(*rows)))


def test_log_likelihoods_and_choices_of_different_numbers_are_refused() -> None:
    rows = answers([0, 1], [1, 0])
    rows[3] |= {"choice_chars": [5, 5]}
    with pytest.raises(UserError, match="item 'q001' of 'global_mmlu-de' has 3 log-likelihoods and 2 choice lengths"):
        list(observe(scores(*rows)))


def test_seeds_of_the_synthetic_grid_are_all_there() -> None:
    found = [row for each in observe(item_rows().lazy()) for row in each.rows["seed"].to_list()]
    assert sorted(set(found)) == list(SEEDS)
