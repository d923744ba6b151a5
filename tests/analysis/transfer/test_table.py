import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tests.analysis.synthetic import LANGUAGES, MODELS, SEEDS, TASKS, cells, item_rows, published_table, write_run
from tests.analysis.transfer.test_pairing import answers, scores
from transfergrid.analysis.imports.donors import import_donors
from transfergrid.analysis.records import KEY
from transfergrid.analysis.statistics.significance import benjamini_hochberg
from transfergrid.analysis.transfer.by_seed import NO_BASELINE, NO_SCORES
from transfergrid.analysis.transfer.imported import NOT_IMPORTED
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.config.settings import GridConfig
from transfergrid.grid import Cell, UserError, regime_of
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import NOISE_FLOOR_SCHEMA


def test_one_adapter_by_hand(tmp_path: Path) -> None:
    run = write_run(tmp_path, scores(*answers([0, 0, 1, 2, 1], [0, 1, 0, 0, 2])).collect())
    row = read_transfer(run).by_seed.row(0, named=True)
    assert (row["base_score"], row["adapter_score"]) == (0.4, 0.6)
    assert row["delta_pp"] == pytest.approx(20)
    # differences 0 -1 1 1 0: variance 0.7, standard error sqrt(0.7 / 5)
    assert row["se_pp"] == pytest.approx(100 * (0.7 / 5) ** 0.5)
    assert row["mcnemar_p"] == pytest.approx(1.0)
    assert row["n_none"] == 1
    assert row["regime"] == "CT-ML"


def test_every_cell_of_the_grid_is_there_and_in_its_regime(tmp_path: Path) -> None:
    found = read_transfer(write_run(tmp_path, item_rows()))
    n_cells = len(cells())
    assert found.by_seed.height == len(MODELS) * len(SEEDS) * n_cells**2
    assert found.rows.height == len(MODELS) * n_cells**2
    for row in found.rows.iter_rows(named=True):
        source = Cell(row["source_task"], row["source_language"])
        target = Cell(row["target_task"], row["target_language"])
        assert row["regime"] == regime_of(source, target)
    assert found.rows["delta_pp"].null_count() == 0


def test_seeds_are_averaged_and_their_spread_kept(tmp_path: Path) -> None:
    found = read_transfer(write_run(tmp_path, item_rows()))
    slow = {
        key: (part["delta_pp"].mean(), part["delta_pp"].std(), part.height)
        for key, part in found.by_seed.partition_by(KEY, as_dict=True).items()
    }
    for row in found.rows.iter_rows(named=True):
        mean, spread, n_seeds = slow[tuple(row[name] for name in KEY)]
        assert row["delta_pp"] == pytest.approx(mean)
        assert row["delta_sd_seeds_pp"] == pytest.approx(spread)
        assert row["n_seeds"] == n_seeds == 2
        assert row["p_method"] == "moderated t test, items and seeds crossed"


@pytest.mark.parametrize(("n_items", "nets", "expected"), [(15, (-3, 2, 1), 0.0), (300, (5, 2, -16), -1.0)])
def test_the_mean_over_seeds_is_exact_where_the_counts_are(
    n_items: int, nets: tuple[int, ...], expected: float, tmp_path: Path
) -> None:
    n_base = n_items // 3
    base = [0] * n_base + [1] * (n_items - n_base)
    rows = answers(base, [])
    for seed, net in enumerate(nets):
        n_right = n_base + net
        rows += answers([], [0] * n_right + [1] * (n_items - n_right), seed)
    found = read_transfer(write_run(tmp_path, scores(*rows).collect()))
    # the plain mean of the seeds is a little above 0 and above -1
    assert found.by_seed.group_by("model").agg(pl.col("delta_pp").mean())["delta_pp"][0] > expected
    assert found.rows["delta_pp"].to_list() == [expected]


def test_one_seed_is_tested_with_mcnemar(tmp_path: Path) -> None:
    found = read_transfer(write_run(tmp_path, item_rows(seeds=(17,))))
    joined = found.rows.join(found.by_seed, on=list(KEY))
    assert joined["p_value"].to_list() == joined["mcnemar_p"].to_list()
    assert joined["se_pp"].to_list() == pytest.approx(joined["se_pp_right"].to_list())
    assert set(found.rows["p_method"]) == {"exact McNemar"}


def test_q_values_are_controlled_over_the_whole_table(tmp_path: Path) -> None:
    found = read_transfer(write_run(tmp_path, item_rows(seeds=(17,)))).rows
    assert found["q_value"].to_list() == pytest.approx(benjamini_hochberg(found["p_value"].to_numpy()).tolist())


def test_missing_cells_stay_visible(tmp_path: Path) -> None:
    gone = (pl.col("source_task") == "arc_challenge") & (pl.col("target_language") == "fr") & (pl.col("seed") == 17)
    run = write_run(tmp_path, item_rows().filter(~gone.fill_null(False)))
    found = read_transfer(run)
    missing = found.by_seed.filter(pl.col("reason") == NO_SCORES)
    assert missing.height == len(MODELS) * 3 * 2
    assert missing["delta_pp"].null_count() == missing.height
    affected = found.rows.filter(pl.col("n_seeds_missing") == 1)
    assert affected.height == missing.height
    assert affected["delta_pp"].null_count() == 0


def test_the_configuration_says_what_is_expected(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(models=MODELS[:1], seeds=(17,)))
    config = GridConfig(models=(MODELS[0], "another-1B"), tasks=TASKS, languages=(*LANGUAGES, "it"), seeds=SEEDS)
    found = read_transfer(run, config)
    assert found.by_seed.height == 2 * 8**2
    assert found.by_seed.filter(pl.col("reason").is_null()).height == 36
    assert found.by_seed["model"].unique().to_list() == [MODELS[0]]
    assert set(found.rows["construction"]) == {"written"}


def test_a_target_without_baseline_says_so(tmp_path: Path) -> None:
    gone = pl.col("source_task").is_null() & (pl.col("target_language") == "fr")
    found = read_transfer(write_run(tmp_path, item_rows().filter(~gone)))
    part = found.rows.filter(target_language="fr")
    assert set(part["reason"]) == {NO_BASELINE}
    assert part["delta_pp"].null_count() == part.height


def test_a_target_whose_items_were_not_scored_says_why(tmp_path: Path) -> None:
    failed = (pl.col("source_task") == "global_mmlu") & (pl.col("target_language") == "en")
    unscored = (
        item_rows()
        .with_columns(
            pl.when(failed).then(None).otherwise(pl.col(name)).alias(name)
            for name in ("pred", "pred_norm", "loglikelihoods_nats")
        )
        .with_columns(unscored_reason=pl.when(failed).then(pl.lit("too long")))
    )
    part = read_transfer(write_run(tmp_path, unscored)).rows.filter(source_task="global_mmlu", target_language="en")
    assert set(part["reason"]) == {"no item scored: too long"}


def test_the_noise_floor_stands_beside_its_target(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows())
    run.noise_floor.mkdir()
    floor = pl.DataFrame([(MODELS[0], "arc_challenge", "de", 12, 3, 2, 0.1)], schema=NOISE_FLOOR_SCHEMA, orient="row")
    floor.write_parquet(run.noise_floor / "part.parquet")
    found = read_transfer(run).rows
    there = found.filter(model=MODELS[0], target_task="arc_challenge", target_language="de")
    assert set(there["n_flips_noise_floor"]) == {3}
    assert found["n_flips_noise_floor"].null_count() == found.height - there.height


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    rows = item_rows()
    first = read_transfer(write_run(tmp_path / "a", rows))
    second = read_transfer(write_run(tmp_path / "b", rows.sample(fraction=1, shuffle=True, seed=2)))
    assert first.rows.equals(second.rows)
    assert first.by_seed.equals(second.by_seed)


def import_table(run: RunFolder, table: pl.DataFrame) -> None:
    run.root.mkdir(parents=True, exist_ok=True)
    table.write_csv(run.root / "table.csv")
    import_donors(run.root / "table.csv", run)


def test_imported_rows_are_tested_across_seeds_and_missing_ones_listed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    import_table(run, published_table(("m-1B",), cells(), [1.0] * 36)[:-1])
    found = read_transfer(run)
    assert found.by_seed.is_empty()
    assert found.rows.height == 36
    assert found.rows.filter(pl.col("reason") == NOT_IMPORTED).height == 1
    first = found.rows.row(0, named=True)
    # ARC: norm columns; the standard deviation over seeds is moderated by those of MMLU, which are 1
    assert 0.5 / 3**0.5 < first["se_pp"] < 1 / 3**0.5
    assert first["df"] > 2
    assert first["p_value"] == pytest.approx(2 * stats.t.sf(1 / first["se_pp"], first["df"]))
    assert (first["size"], first["p_method"]) == ("<=1.5B", "moderated t test across seeds")


def test_what_is_zero_but_for_rounding_is_neither_a_win_nor_a_standard_error(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    table = published_table(("m-1B",), cells(), [1.85e-15, -1 + 1e-13] * 18).with_columns(
        delta_score_norm_se=pl.lit(1.9e-15), delta_score_se=pl.lit(1.9e-15)
    )
    import_table(run, table)
    rows = read_transfer(run).rows
    assert set(rows.filter(target_task="arc_challenge")["delta_pp"]) == {0.0, -1.0}
    assert set(rows["se_pp"]) == {0.0}
    assert rows["p_value"].null_count() == rows.height


def test_imported_rows_are_of_the_studys_items_whatever_the_configuration(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    import_table(run, published_table(MODELS[:1], cells(), [1.0] * 36))
    found = read_transfer(run, GridConfig(models=MODELS[:1], tasks=TASKS, languages=LANGUAGES)).rows
    made = dict(found.select("target_task", "construction").unique().iter_rows())
    assert made == {"arc_challenge": "machine-translated", "global_mmlu": "human-translated"}


def test_a_part_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(n_items=300))
    (path,) = run.scores.iterdir()
    content = bytearray(path.read_bytes())
    start = len(content) // 4
    content[start : start + 2000] = bytes(2000)
    path.rename(path.with_name("part.parquet")).write_bytes(content)  # without a checksum in its name
    item_rows(models=("another-1B",), n_items=2).write_parquet(run.scores / "a-sound-part.parquet")
    with pytest.raises(UserError, match=r"part.parquet' cannot be read as Parquet.*move it away"):
        read_transfer(run)


def test_an_error_that_is_not_the_files_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise pl.exceptions.ComputeError("a fault of the program")

    monkeypatch.setattr("transfergrid.analysis.transfer.table.observe", fail)
    with pytest.raises(pl.exceptions.ComputeError, match="a fault of the program"):
        read_transfer(write_run(tmp_path, item_rows(n_items=1)))


def test_a_model_that_is_scored_and_imported_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows())
    import_table(run, published_table(MODELS[:1], cells(), [1.0] * 36))
    with pytest.raises(UserError, match=r"model 'Llama-3.2-1B-Instruct' has both item scores and an imported table"):
        read_transfer(run)


@pytest.mark.parametrize("kind", ["part", "import"])
def test_every_flipped_bit_of_a_checked_file_is_seen(kind: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(models=("m-1B",), n_items=3))
    (whole,) = run.scores.iterdir()
    content = whole.read_bytes()
    whole.unlink()
    folder = run.scores if kind == "part" else run.imported / "scores"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"m-1B.base.{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    path.write_bytes(content)
    assert read_transfer(run).rows.height == 36
    generator = np.random.default_rng(0)
    for place, bit in zip(generator.integers(0, len(content), 40), generator.integers(0, 8, 40), strict=True):
        changed = bytearray(content)
        changed[place] ^= 1 << int(bit)
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"m-1B.base.*does not have the content that its name says.*move it away"):
            read_transfer(run)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"m-1B.base.*cannot be read as Parquet: .*Is a directory"):
        read_transfer(run)


def test_a_panic_of_polars_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*args: object, **options: object) -> None:
        raise pl.exceptions.PanicException("offset + length <= self.length")

    run = write_run(tmp_path, item_rows(n_items=1))
    monkeypatch.setattr("transfergrid.analysis.transfer.table.observe", panic)
    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(UserError, match=r"parquet' cannot be read as Parquet: offset \+ length"):
        read_transfer(run)
