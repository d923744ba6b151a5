"""Adaptive evaluation: pairs stop as a replay of the full store says, and the store goes on under either design."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import false_discovery_control

from tests.engine.evaluation.test_sweep import count_calls
from tests.engine.fake_scorer import hashed_loglikelihood
from tests.engine.sweeps import FakeMaker, add_adapters, small_config, stored_rows, sweep
from tests.executors import do_elsewhere
from transfergrid.analysis import build_tables
from transfergrid.analysis.tables.power import plan_power
from transfergrid.analysis.transfer.adaptive import STOPPED, TESTED
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.config.settings import DataConfig, GridConfig
from transfergrid.engine.evaluation.score_cell import CellScorer
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import Adapter, TokenisedItem
from transfergrid.engine.work.estimate import estimate
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import UserError
from transfergrid.store import adaptive
from transfergrid.store.adaptive import Design, Seen
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import ScoreStore
from transfergrid.view.pages import View
from transfergrid.view.status import read_status

Maker = Callable[[], FakeMaker]
PAIR = ["seed", "source", "target_task", "target_language"]
N = 32


@pytest.fixture(autouse=True)
def early_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bundled cells have 32 items."""
    adaptive.expected_items.cache_clear()
    monkeypatch.setattr(adaptive, "FIRST_LOOK", 8)
    monkeypatch.setattr(adaptive, "LOOK_EVERY", 4)
    yield
    adaptive.expected_items.cache_clear()


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    return small_config(tiny_llama, data=DataConfig(max_train_items=4))


@dataclass(frozen=True)
class Learnt:
    """Changes few answers of the base; adapters trained in English learn most of ARC, whatever its language."""

    golds: Mapping[str, int]

    def __call__(self, item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
        of_base = hashed_loglikelihood(item, choice, None)
        if adapter is None:
            return of_base
        is_gold = self.golds[item.item_id] == choice and item.item_id.startswith("arc") and "-en" in adapter.name
        return 0.8 * of_base + 0.2 * hashed_loglikelihood(item, choice, adapter) + 9.0 * is_gold


@pytest.fixture
def maker(config: GridConfig, tmp_path: Path) -> Maker:
    """Return the maker of a new fake engine."""
    base = RunFolder(tmp_path / "base")
    sweep(config, base, narrowing={"sources": ("base",)})
    golds = dict(stored_rows(base).select("item_id", "gold").iter_rows())
    return lambda: FakeMaker(Learnt(golds))


@pytest.fixture
def full(config: GridConfig, tiny_adapters: tuple[Path, ...], maker: Maker, tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "full")
    add_adapters(config, folder, tiny_adapters[0])
    assert sweep(config, folder, maker()).is_complete
    return folder


def replayed(full: RunFolder, n: int) -> pl.DataFrame:
    """Return how many items every pair of a full store gets, by the rule as it is written down."""
    rows = stored_rows(full).select(*PAIR, "item_id", "value")
    base = rows.filter(source="base").drop("seed", "source")
    rank = {item: at for ids in [adaptive.seeded_order(rows["item_id"].unique())] for at, item in enumerate(ids)}
    paired = rows.join(base, on=["target_task", "target_language", "item_id"], suffix="_base")
    found = []
    for pair, part in paired.sort(pl.col("item_id").replace_strict(rank)).group_by(PAIR, maintain_order=True):
        change = (part["value"] - part["value_base"]).to_list()
        looks = [] if pair[1] == "base" else range(8, n, 4)
        m = next((m for m in looks if stops(sum(change[:m]), sum(map(abs, change[:m])) / m, m, n)), n)
        found.append((*pair, m))
    return pl.DataFrame(found, schema=[*PAIR, "n"], orient="row").sort(PAIR, nulls_last=True)


def stops(d: float, c: float, m: int, n: int) -> bool:
    return c == 0 or (abs(d) * n / m + 0.64 * math.sqrt(c * (n - m))) / math.sqrt(n * c) < 2


def counted(run: RunFolder) -> pl.DataFrame:
    return stored_rows(run).group_by(PAIR).agg(n=pl.len().cast(pl.Int64)).sort(PAIR, nulls_last=True)


def test_pairs_stop_where_a_replay_of_the_full_store_says(
    config: GridConfig, run: RunFolder, maker: Maker, full: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = sweep(config, run, maker(), design=Design())
    expected = replayed(full, N)
    assert_frame_equal(counted(run), expected)
    of_pairs = expected.filter(pl.col("source") != "base")["n"]
    assert {8, N} < set(of_pairs)
    rows = stored_rows(full)
    assert_frame_equal(
        stored_rows(run), rows.join(stored_rows(run), on=[*PAIR, "item_id"], how="semi", nulls_equal=True)
    )
    assert report.is_complete
    assert report.stopped == (16, (of_pairs < N).sum(), of_pairs.sum(), 16 * N)
    assert f"{(of_pairs < N).sum()} of 16 pairs of adapter and target stopped early" in str(report.stopped)
    said = read_status(run, config)
    assert said.n_short == report.stopped.n_stopped
    assert f"{said.n_short} cells of an adaptive run stopped early" in said.lines()[1]
    scored = count_calls(monkeypatch, CellScorer, "score")
    assert sweep(config, run, maker(), design=Design()).stopped == report.stopped
    assert scored == []


def test_the_mean_deltas_of_a_report_are_over_the_items_of_all_pairs(
    config: GridConfig, run: RunFolder, maker: Maker, full: RunFolder
) -> None:
    narrowing = {"sources": ("base", "global_mmlu-de"), "targets": ("global_mmlu-en",)}
    sweep(config, run, maker(), design=Design())
    report = sweep(config, run, maker(), design=Design(), narrowing=narrowing)
    rows = stored_rows(full).filter(target_task="global_mmlu", target_language="en")
    common = rows.filter(pl.col("item_id").is_in(adaptive.seeded_order(rows["item_id"].unique())[:8]))
    means = [common.filter(source=source)["value"].mean() for source in ("global_mmlu-de", "base")]
    assert report.deltas["mean_delta_pp"].to_list() == [pytest.approx(100 * (means[0] - means[1]))]


def test_a_fixed_run_completes_an_adaptive_store_and_the_other_way_round(
    config: GridConfig, run: RunFolder, maker: Maker, full: RunFolder
) -> None:
    sweep(config, run, maker(), design=Design())
    n_stored = stored_rows(run).height
    assert sweep(config, run, maker()).is_complete
    assert n_stored < stored_rows(run).height
    assert_frame_equal(stored_rows(run), stored_rows(full))
    before = sorted(run.scores.glob("*.parquet"))
    report = sweep(config, run, maker(), design=Design())
    assert report.is_complete
    assert report.stopped is not None
    assert report.stopped.n_stopped == 0
    assert sorted(run.scores.glob("*.parquet")) == before


def test_fewer_items_at_most_are_another_n_and_may_be_raised(
    config: GridConfig, run: RunFolder, maker: Maker, full: RunFolder
) -> None:
    assert sweep(config, run, maker(), design=Design(20)).is_complete
    of_base = pl.when(pl.col("source") == "base").then(N).otherwise("n").cast(pl.Int64)
    assert_frame_equal(counted(run), replayed(full, 20).with_columns(n=of_base))
    assert sweep(config, run, maker(), design=Design()).is_complete
    expected = replayed(full, N).with_columns(pl.max_horizontal("n", replayed(full, 20)["n"]))
    assert_frame_equal(counted(run), expected)


def test_workers_elsewhere_stop_the_same_pairs(
    config: GridConfig, run: RunFolder, maker: Maker, full: RunFolder
) -> None:
    report = evaluate(config, run, EvalRequest(design=Design()), maker=maker(), execute=do_elsewhere)
    assert report.is_complete
    assert_frame_equal(counted(run), replayed(full, N))


def test_a_lost_slice_is_scored_again_with_those_after_it(
    config: GridConfig, run: RunFolder, maker: Maker, full: RunFolder
) -> None:
    sweep(config, run, maker(), design=Design())
    for part in ScoreStore(run.scores).scan().parts:
        if part.origin.source.name == "arc_challenge-en":
            part.path.write_bytes(b"damaged")
    assert sweep(config, run, maker(), design=Design()).is_complete
    assert_frame_equal(counted(run), replayed(full, N))


def test_pairs_without_a_baseline_are_refused(config: GridConfig, run: RunFolder, maker: Maker) -> None:
    narrowing = {"sources": ("arc_challenge-de",), "targets": ("arc_challenge-de",)}
    with pytest.raises(UserError, match="has no scores on arc_challenge-de; name --source base too"):
        sweep(config, run, maker(), design=Design(), narrowing=narrowing)
    sweep(config, run, maker(), narrowing={**narrowing, "sources": ("base",)})
    assert sweep(config, run, maker(), design=Design(), narrowing=narrowing).is_complete


def test_a_plan_counts_the_expected_items_and_nothing_of_pairs_that_stopped(
    config: GridConfig, run: RunFolder, maker: Maker
) -> None:
    fresh = estimate(config, run, EvalRequest(design=Design()))
    assert fresh.expected_share is not None
    assert 8 / N < fresh.expected_share < 1
    assert fresh.models[0].n_items == pytest.approx(4 * N + 16 * N * fresh.expected_share, abs=16)
    sweep(config, run, maker(), design=Design())
    (left,) = estimate(config, run, EvalRequest(design=Design())).models
    assert (left.n_finished, left.n_items) == (20, 0)
    (fixed,) = estimate(config, run, EvalRequest()).models
    assert fixed.n_items == 20 * N - stored_rows(run).height


def test_a_pair_without_a_change_stops_and_one_without_baseline_does_not() -> None:
    assert adaptive.is_futile(Seen(100, 100, 0.0, 0.0), 400)
    assert not adaptive.is_futile(Seen(100, 0, 0.0, 0.0), 400)
    # by hand: 4 of 100 changed, all for the better: (16 + .64 sqrt(12)) / 4 = 4.55; 5 of 40: (20 + .64 sqrt(120)) / 12.6 = 2.14
    assert not adaptive.is_futile(Seen(100, 100, 4.0, 4.0), 400)
    assert not adaptive.is_futile(Seen(100, 100, -5.0, 40.0), 400)
    assert adaptive.is_futile(Seen(100, 100, 4.0, 40.0), 400)


def test_slices_join_from_the_first_item_on() -> None:
    joined = adaptive.join_slices([(100, 50), (0, 100), (0, 100), (200, 50), (100, 20)], lambda each: each)
    assert joined.fitting == [(0, 100), (100, 50)]
    assert joined.others == [(0, 100), (100, 20), (200, 50)]


def test_tables_are_over_the_items_of_all_pairs_and_tests_over_all_items_of_a_pair(
    config: GridConfig, run: RunFolder, maker: Maker, full: RunFolder, tmp_path: Path
) -> None:
    sweep(config, run, maker(), design=Design())
    found, whole = read_transfer(run, config), read_transfer(full, config)
    rows = stored_rows(full)
    first = [set(adaptive.seeded_order(part["item_id"].unique())[:8]) for part in rows.partition_by("target_task")]
    part = RunFolder(tmp_path / "first")
    part.scores.mkdir(parents=True)
    rows.filter(pl.col("item_id").is_in(list(set.union(*first)))).write_parquet(part.scores / "rows.parquet")
    common = read_transfer(part, config)
    numbers = ["n_items", "base_score", "adapter_score", "delta_pp", "se_pp", "df"]
    assert_frame_equal(found.rows.select(numbers), common.rows.select(numbers))
    assert_frame_equal(found.by_seed.select("n_both", "delta_pp"), common.by_seed.select("n_both", "delta_pp"))
    went_on = replayed(full, N).filter(pl.col("source") != "base", n=N).drop("n", "seed")
    keys = went_on.columns
    tested = found.rows.filter(decision=TESTED)
    expected = whole.rows.join(went_on, on=keys, how="semi")
    assert 0 < tested.height < 16
    assert_frame_equal(tested.select(*keys, "p_value"), expected.select(*keys, "p_value"))
    names = {"tested_n_items": "n_items", "tested_delta_pp": "delta_pp", "tested_se_pp": "se_pp"}
    assert_frame_equal(tested.select(*keys, *names), expected.select(*keys, **{k: pl.col(v) for k, v in names.items()}))
    assert set(found.rows.filter(decision=STOPPED)["p_value"]) == {1.0}
    assert set(found.by_seed.filter(decision=STOPPED)["mcnemar_p"]) == {1.0}
    assert found.rows.filter(decision=STOPPED)["tested_delta_pp"].null_count() == 16 - tested.height
    q_values = false_discovery_control(found.rows["p_value"].to_numpy())
    assert found.rows["q_value"].to_list() == pytest.approx(q_values.tolist())
    assert whole.rows["decision"].null_count() == 16
    n_scored, n_stopped = (
        sum(each)
        for each in zip(*((n, n < N) for n in replayed(full, N).filter(pl.col("source") != "base")["n"]), strict=True)
    )
    remark = str(found.rows["remark"][0])
    assert f"{n_stopped} of 16 pairs of adapter and target stopped early and are not decided" in remark
    assert f"saved {1 - n_scored / (16 * N):.0%} of the items" in remark
    regimes = build_tables(run, config).regimes.filter(regime="all transfer", by="all").row(0, named=True)
    assert regimes["mean_pp"] == pytest.approx(common.rows.filter(pl.col("regime") != "MT-ML")["delta_pp"].mean())
    assert regimes["n_tested"] == 12
    assert plan_power(config, run).rows()["n_items"][0] == N
    assert_the_page_shows(run, found.by_seed)


def assert_the_page_shows(run: RunFolder, by_seed: pl.DataFrame) -> None:
    """Compare the deltas of the local page with the tables'."""
    view = View(run, None)
    numbers = ["delta_pp", "base_score", "n_items"]
    assert_frame_equal(view.items.summaries("tiny").sort(PAIR).select(numbers), by_seed.sort(PAIR).select(numbers))
    for row in by_seed.iter_rows(named=True):
        target = f"{row['target_task']}-{row['target_language']}"
        shown = view.pair({"model": "tiny", "source": row["source"], "target": target}).values
        assert shown["delta_pp"] == pytest.approx(row["delta_pp"])
        assert (shown["mcnemar_p"] is None) == (row["decision"] == STOPPED)
        assert shown["mcnemar_p"] in (None, pytest.approx(row["mcnemar_p"]))
        compared = view.compare({"model": "tiny", "source": row["source"], "other": row["source"]}).table
        at_target = compared.filter(target_task=row["target_task"], target_language=row["target_language"])
        assert at_target["delta_pp"].to_list() == [pytest.approx(row["delta_pp"])]
