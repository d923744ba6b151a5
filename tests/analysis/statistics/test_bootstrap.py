import numpy as np
import polars as pl
import pytest

from tests.analysis.synthetic import cells, transfer_rows
from transfergrid.analysis.records import ItemBlock
from transfergrid.analysis.statistics.bootstrap import ClusterBootstrap, centred_interval, level_counts, resample_deltas
from transfergrid.analysis.statistics.levels import count_levels
from transfergrid.config.settings import AnalysisConfig

SETTINGS = AnalysisConfig(bootstrap_resamples=300, seed=4)


def rows_with_items(n_items: int = 30, gaps: bool = False) -> tuple[pl.DataFrame, tuple[ItemBlock, ...]]:
    """Rows of one model whose deltas are those of their items."""
    generator = np.random.default_rng(0)
    rows = transfer_rows(("m",), cells())
    blocks, deltas = [], {}
    for task in ("arc_challenge", "global_mmlu"):
        keys = rows.filter(target_task=task).select(
            "model", "source_task", "source_language", "target_task", "target_language"
        )
        values = generator.integers(-1, 2, (keys.height, n_items)).astype(np.float32)
        scored = generator.random(values.shape) < (0.9 if gaps else 1.1)
        values[~scored] = 0
        blocks.append(ItemBlock(task, keys, tuple(f"q{item:03d}" for item in range(n_items)), values, scored))
        for key, delta in zip(keys.iter_rows(), 100 * values.sum(1) / scored.sum(1), strict=True):
            deltas[key] = float(delta)
    keyed = [deltas[key] for key in rows.select(blocks[0].keys.columns).iter_rows()]
    return rows.with_columns(delta_pp=pl.Series(keyed)), tuple(blocks)


def test_resampled_deltas_meet_the_harm_threshold_and_zero_exactly() -> None:
    n_items = 400
    generator = np.random.default_rng(0)
    values = generator.choice([-1, 0, 1], p=[0.08, 0.86, 0.06], size=(49, n_items)).astype(np.float32)
    grid = cells(("arc_challenge",), ("ar", "de", "en", "es", "fr", "hi", "zh"))
    exact = 100 * values.astype(np.float64).sum(axis=1) / n_items
    rows = transfer_rows(("m",), grid, exact)
    keys = rows.select("model", "source_task", "source_language", "target_task", "target_language")
    block = ItemBlock(
        "arc_challenge", keys, tuple(map(str, range(n_items))), values, np.ones((49, n_items), dtype=bool)
    )
    draws = resample_deltas(rows, (block,), SETTINGS)
    counts = level_counts("items of arc_challenge", n_items, n_resamples=draws.shape[1], seed=SETTINGS.seed)
    net = values.astype(np.int64) @ counts.astype(np.int64).T
    assert (net == -4).any()
    assert np.array_equal(draws <= np.float32(-1), net <= -4)
    assert np.array_equal(draws > 0, net > 0)


def test_counts_are_multinomial_and_depend_on_the_name_and_seed_only() -> None:
    found = level_counts("sources", 7, n_resamples=50, seed=1)
    assert (found.sum(axis=1) == 7).all()
    assert np.array_equal(found, level_counts("sources", 7, n_resamples=50, seed=1))
    assert not np.array_equal(found, level_counts("targets", 7, n_resamples=50, seed=1))
    assert not np.array_equal(found, level_counts("sources", 7, n_resamples=50, seed=2))


@pytest.mark.parametrize("gaps", [False, True])
def test_resampled_deltas_equal_deltas_of_the_items_drawn(gaps: bool) -> None:
    rows, blocks = rows_with_items(gaps=gaps)
    found = resample_deltas(rows, blocks, SETTINGS)
    assert found.shape == (rows.height, 300)
    block = blocks[1]
    counts = level_counts("items of global_mmlu", 30, n_resamples=300, seed=4)
    keys = list(rows.select(block.keys.columns).iter_rows())
    for place, key in enumerate(block.keys.iter_rows()):
        for draw in (0, 17):
            drawn = np.repeat(np.arange(30), counts[draw].astype(int))
            drawn = drawn[block.scored[place][drawn]]
            expected = 100 * block.differences[place][drawn].mean()
            assert found[keys.index(key), draw] == pytest.approx(expected, abs=1e-3)


def test_rows_without_items_keep_their_delta() -> None:
    rows = transfer_rows(("m",), cells(), np.arange(36))
    assert resample_deltas(rows, (), SETTINGS)[:, 0].tolist() == list(range(36))


def test_a_rows_weight_is_the_product_of_its_levels_counts() -> None:
    rows = transfer_rows(("m", "n"), cells())
    bootstrap = ClusterBootstrap(rows, resample_deltas(rows, (), SETTINGS), SETTINGS)
    counts = {factor: bootstrap.counts(factor) for factor in ("sources", "targets")}
    weights = np.concatenate([bootstrap.draw(part, counts).weights for part in bootstrap.parts()], axis=1)
    names = [cell.name for cell in sorted(cells())]
    sources = level_counts("sources", 6, n_resamples=300, seed=4)
    targets = level_counts("targets", 6, n_resamples=300, seed=4)
    for place, row in enumerate(rows.iter_rows(named=True)):
        source = names.index(f"{row['source_task']}-{row['source_language']}")
        target = names.index(f"{row['target_task']}-{row['target_language']}")
        assert np.array_equal(weights[place], sources[:, source] * targets[:, target])


def test_the_centred_interval_is_the_percentile_interval_moved_to_the_estimate() -> None:
    draws = np.arange(101, dtype=float)[None, :]
    found = centred_interval(draws, np.array([10.0]), 0.9)
    assert (found.low[0], found.high[0]) == pytest.approx((5 - 40, 95 - 40))


def test_no_interval_where_more_than_a_tenth_of_the_resamples_is_empty() -> None:
    draws = np.tile(np.arange(100, dtype=float), (2, 1))
    draws[0, :5] = np.nan
    draws[1, :11] = np.nan
    found = centred_interval(draws, np.array([50.0, 50.0]), 0.9)
    assert np.isfinite(found.low).tolist() == [True, False]


def test_levels_are_counted() -> None:
    assert count_levels(np.array([3, 3, 0, 7])) == 3
