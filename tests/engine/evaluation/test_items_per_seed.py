"""Test items of each seed's own: drawn the same in every language, scored, paired and counted as redrawn."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from scipy import special

from tests.engine.sweeps import FakeMaker, copy_adapter, small_config, stored_rows, sweep
from transfergrid.analysis import build_tables
from transfergrid.analysis.statistics.power import Noise, regime_delta
from transfergrid.analysis.tables.power import plan_power
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.benchmarks.materialise import request_hash
from transfergrid.config.settings import DataConfig, GridConfig
from transfergrid.engine.work.estimate import estimate
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import UserError
from transfergrid.store import adaptive
from transfergrid.store.adaptive import Design
from transfergrid.store.folder import RunFolder

SEEDS, N = (17, 42, 101), 10


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    data = DataConfig(max_train_items=4, test_items_per_seed=N)
    return small_config(tiny_llama, data=data, seeds=SEEDS)


@pytest.fixture
def run(config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    for seed in SEEDS:
        for cell in config.grid.cells:
            copy_adapter(tiny_adapters[0], folder.adapter("tiny", seed, cell), note=f"{cell.name} {seed}")
    return folder


def items_of(rows: pl.DataFrame, seed: int | None) -> list[set[str]]:
    """Return the items of a seed in every cell."""
    part = rows.filter(pl.col("seed").eq_missing(seed))
    return [set(each["item_id"]) for each in part.partition_by("target_task", "target_language")]


def test_every_seed_is_scored_on_its_own_items_and_the_base_on_all_of_them(config: GridConfig, run: RunFolder) -> None:
    planned = estimate(config, run, EvalRequest()).models[0]
    assert planned.n_items == 4 * 3 * N + 3 * 4 * 4 * N
    report = sweep(config, run)
    assert report.is_complete
    assert report.totals.n_items == planned.n_items
    rows = stored_rows(run)
    draws = {seed: items_of(rows, seed) for seed in SEEDS}
    assert all(len(items) == N for each in draws.values() for items in each)
    for one, other in combinations(SEEDS, 2):
        assert all(not first & second for first, second in zip(draws[one], draws[other], strict=True))
    tasks = rows.filter(seed=17).group_by("target_task").agg(pl.col("item_id").n_unique())
    assert tasks["item_id"].to_list() == [N, N], "the same in both languages"
    assert items_of(rows, None) == [set.union(*each) for each in zip(*draws.values(), strict=True)]
    assert sweep(config, run).totals.n_items == 0


def test_pairs_are_compared_on_their_seeds_items_and_the_draw_counts_as_noise_of_seeds(
    config: GridConfig, run: RunFolder
) -> None:
    sweep(config, run)
    transfer = read_transfer(run, config)
    assert set(transfer.by_seed["n_items"]) == {N}
    rows = stored_rows(run)
    row = transfer.by_seed.row(0, named=True)
    of_pair = {name: row[name] for name in ("seed", "target_task", "target_language")}
    adapter = rows.filter(source=row["source"], **of_pair)
    base = rows.filter(
        pl.col("source") == "base", target_task=row["target_task"], target_language=row["target_language"]
    )
    paired = adapter.join(base, on="item_id", suffix="_base")
    assert row["delta_pp"] == pytest.approx(100 * (paired["value"] - paired["value_base"]).mean())  # type: ignore[operator]
    assert set(transfer.rows["p_method"].drop_nulls()) == {"moderated t test, items redrawn per seed"}
    shown = plan_power(config, run).rows().row(0, named=True)
    assert (shown["n_items"], shown["n_seeds"]) == (N, 3)
    noise = Noise(N, shown["change_rate"], 3, redrawn=True)
    assert shown["smallest_delta_pp"] == pytest.approx(regime_delta(noise, config.grid, None, 0.95))
    assert noise.variance == pytest.approx(Noise(3 * N, shown["change_rate"]).variance)
    assert build_tables(run, config).power.row(0, named=True) == shown
    tested = transfer.rows.filter(pl.col("se_pp") > 0)
    t = tested["delta_pp"].abs() / tested["se_pp"]
    assert tested["p_value"].to_list() == pytest.approx(list(2 * special.stdtr(tested["df"].to_numpy(), -t.to_numpy())))


def test_pairs_of_a_seeds_own_items_may_stop_early(
    config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "FIRST_LOOK", 4)
    monkeypatch.setattr(adaptive, "LOOK_EVERY", 3)
    assert sweep(config, run, design=Design()).is_complete
    sizes = stored_rows(run).drop_nulls("seed").group_by("seed", "source", "target_task", "target_language").len()
    assert {4, N} <= set(sizes["len"]) <= {4, 7, N}
    assert set(read_transfer(run, config).by_seed["n_items"]) == {4}
    assert sweep(config, run).is_complete


def test_an_item_that_no_seed_has_and_too_few_items_are_refused(config: GridConfig, run: RunFolder) -> None:
    many = config.model_copy(update={"data": config.data.model_copy(update={"test_items_per_seed": 11})})
    with pytest.raises(
        UserError, match=r"3 seed\(s\) with 11 test items each need 33, and arc_challenge-de has 32; set"
    ):
        sweep(many, run)
    sweep(config, run)
    with pytest.raises(UserError, match="were scored with another setup"):
        sweep(many.model_copy(update={"data": many.data.model_copy(update={"test_items_per_seed": 9})}), run)


def test_the_draw_is_no_part_of_what_is_materialised(config: GridConfig) -> None:
    plain = config.model_copy(update={"data": config.data.model_copy(update={"test_items_per_seed": None})})
    assert request_hash(config) == request_hash(plain)


def test_adapters_of_a_seed_that_has_no_items_are_refused(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    from transfergrid.engine.adapters.places import AdapterFolder

    copy_adapter(tiny_adapters[0], tmp_path / "others" / "arc_challenge-de-5", note="other")
    others = AdapterFolder(folder=tmp_path / "others", pattern="{task}-{language}-{seed}", table=None)
    with pytest.raises(UserError, match=r"seed 5 has no test items: .* only the seeds \[17, 42, 101\]"):
        sweep(config, run, FakeMaker(), adapters=others)
