import numpy as np
import polars as pl
import pytest
from scipy import stats

from tests.analysis.statistics.test_bootstrap import rows_with_items
from tests.analysis.synthetic import cells, transfer_rows
from transfergrid.analysis.records import SOURCE, TARGET, ItemBlock
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.multiway import mean_intervals, task_interaction

BOTH = ("sources", "targets")


def slow_variance(rows: pl.DataFrame, items: tuple[ItemBlock, ...]) -> float:
    """Sum over all pairs of rows that share a source or a target, and of answers to one item by pairs that do not.

    No less than what one source, one target or one item gives alone.
    """
    source, target = level_codes(rows, SOURCE), level_codes(rows, TARGET)
    left = rows["delta_pp"].to_numpy() - rows["delta_pp"].mean()
    alone = []
    for codes in (source, target):
        n = len(set(codes))
        alone.append(sum(left[codes == each].sum() ** 2 for each in set(codes)) * n / (n - 1))
    total = sum(alone)
    pairs = list(zip(source, target, strict=True))
    total -= sum(sum(left[place] for place, each in enumerate(pairs) if each == pair) ** 2 for pair in set(pairs))
    of_items = 0.0
    keys = {key: place for place, key in enumerate(rows.select("model", *SOURCE, *TARGET).rows())}
    for block in items:
        places = [keys[key] for key in block.keys.select("model", *SOURCE, *TARGET).rows()]
        n = block.differences.shape[1]
        centred = block.differences - block.differences.mean(axis=1, keepdims=True)
        products = centred @ centred.T * 100**2 / (n * (n - 1))
        for a, first in enumerate(places):
            for b, second in enumerate(places):
                of_items += products[a, b]
                if source[first] != source[second] and target[first] != target[second]:
                    total += products[a, b]
    return max(total, of_items, *alone) / rows.height**2


def test_the_interval_is_the_mean_and_t_standard_errors_of_the_slow_definition() -> None:
    rows, items = rows_with_items()
    found = mean_intervals(rows, items, [np.arange(rows.height)], factors=[BOTH], confidence=0.9)
    n_levels = min(rows.select(SOURCE).n_unique(), rows.select(TARGET).n_unique())
    width = stats.t.ppf(0.95, n_levels - 1) * slow_variance(rows, items) ** 0.5
    mean = rows["delta_pp"].mean()
    assert tuple(found[:, 0]) == pytest.approx((mean - width, mean + width), rel=1e-5)


def test_with_one_source_and_target_only_items_are_drawn() -> None:
    rows, items = rows_with_items()
    one = np.array([1])
    block = next(each for each in items if each.keys.row(0)[3] == rows["target_task"][1])
    place = next(
        place
        for place, key in enumerate(block.keys.select("model", *SOURCE, *TARGET).rows())
        if key == rows.select("model", *SOURCE, *TARGET).row(1)
    )
    values = 100 * block.differences[place].astype(float)
    width = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    found = mean_intervals(rows, items, [one], factors=[()], confidence=0.95)
    assert found[1, 0] - found[0, 0] == pytest.approx(2 * width, rel=1e-5)
    assert np.isnan(mean_intervals(rows, (), [one], factors=[()], confidence=0.95)).all()


def test_where_no_answer_changed_three_items_may() -> None:
    rows, items = rows_with_items()
    still = tuple(
        ItemBlock(each.task, each.keys, each.item_ids, np.zeros_like(each.differences), each.scored) for each in items
    )
    none = rows.with_columns(delta_pp=pl.lit(0.0))
    found = mean_intervals(none, still, [np.arange(rows.height)], factors=[BOTH], confidence=0.95)
    n = rows.select(TARGET).n_unique()
    df = min(rows.select(SOURCE).n_unique(), n) - 1
    assert found[1, 0] == pytest.approx(stats.t.ppf(0.975, df) * (3 * (100 / 30) ** 2 / n) ** 0.5)
    flat = transfer_rows(("m",), cells(), np.zeros((6, 6)))
    assert np.isnan(mean_intervals(flat, (), [np.arange(flat.height)], factors=[BOTH], confidence=0.95)).all()


def with_interaction(sd: float, n_tasks: int, generator: np.random.Generator) -> pl.DataFrame:
    grid = cells(tuple(f"task{number}" for number in range(n_tasks)), ("de", "en", "es", "fr"))
    by_task = np.kron(sd * generator.normal(size=(n_tasks, n_tasks)), np.ones((4, 4)))
    n = len(grid)
    single = generator.normal(size=(n, 1)) + 2 * generator.normal(size=(1, n)) + 0.5 * generator.normal(size=(n, n))
    return transfer_rows(("m",), grid, (by_task + single)[None])


@pytest.mark.parametrize(
    ("sd", "n_tasks", "low", "high"), [(2.0, 4, 3.0, 5.0), (0.0, 4, 0.0, 0.02), (2.0, 2, 0.0, 0.0)]
)
def test_the_interaction_of_tasks_is_found_where_there_are_three_or_more(
    sd: float, n_tasks: int, low: float, high: float
) -> None:
    generator = np.random.default_rng(0)
    found = [task_interaction(with_interaction(sd, n_tasks, generator)) for _ in range(40)]
    assert low <= np.mean([each.variance for each in found]) <= high
    assert found[0].df == (n_tasks - 1) ** 2


def test_tasks_that_interact_widen_the_interval_of_the_mean_over_several_pairs_of_tasks() -> None:
    rows = with_interaction(2.0, 4, np.random.default_rng(1))
    same_task = (rows["source_task"] == rows["target_task"]).to_numpy() & (rows["regime"] != "MT-ML").to_numpy()
    one_pair = np.flatnonzero(same_task & (rows["target_task"] == "task1").to_numpy())
    groups = [np.flatnonzero(same_task), one_pair]
    wide, narrow = mean_intervals(rows, (), groups, factors=[BOTH, BOTH], confidence=0.95).T
    alone = mean_intervals(
        rows.with_columns(source_task=pl.lit("one"), source_language=pl.concat_str("source_task", "source_language")),
        (),
        groups,
        factors=[BOTH, BOTH],
        confidence=0.95,
    ).T
    assert narrow == pytest.approx(alone[1])  # which pair of tasks it is does not vary
    df = len(rows.select(SOURCE).unique()) - 1
    variance, extra = (
        ((alone[0][1] - alone[0][0]) / 2 / stats.t.ppf(0.975, df)) ** 2,
        task_interaction(rows).variance / 4,
    )
    total = variance + extra
    both = total**2 / (variance**2 / df + extra**2 / 9)
    assert (wide[1] - wide[0]) / 2 == pytest.approx(stats.t.ppf(0.975, both) * total**0.5)
