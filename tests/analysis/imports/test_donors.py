from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import MODELS, cells, published_table
from transfergrid.analysis.imports.donors import import_donors
from transfergrid.analysis.statistics.bootstrap import resample_deltas
from transfergrid.analysis.tables.regimes import regime_table
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import IMPORTED_SCHEMA, read_imported


def deltas() -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 2, (2, 6, 6))


def write(tmp_path: Path, table: pl.DataFrame) -> Path:
    path = tmp_path / "table.csv"
    table.write_csv(path)
    return path


def test_the_score_is_acc_norm_for_arc_and_acc_elsewhere(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    report = import_donors(write(tmp_path, published_table(MODELS, cells(), deltas())), run)
    assert (report.n_rows, report.n_sources, report.n_targets, report.models) == (72, 6, 6, MODELS)
    found = read_imported(run)
    assert found.schema == IMPORTED_SCHEMA
    wanted = dict(zip(["arc_challenge", "global_mmlu"], [("acc_norm", 0.5, 0.0), ("acc", 1.0, 10.0)], strict=True))
    expected = deltas()
    grid = cells()
    for row in found.iter_rows(named=True):
        metric, spread, offset = wanted[row["target_task"]]
        place = [(cell.task, cell.language) for cell in grid]
        source = place.index((row["source_task"], row["source_language"]))
        target = place.index((row["target_task"], row["target_language"]))
        assert row["delta_pp"] == pytest.approx(expected[MODELS.index(row["model"]), source, target] + offset)
        assert (row["primary_metric"], row["delta_sd_pp"], row["seed"]) == (metric, spread, None)
        assert row["se_pp"] == pytest.approx(spread / 3**0.5)


def test_the_headline_arithmetic_by_hand(tmp_path: Path) -> None:
    """Mean, median, share above 0 and share at or below -1, the diagonal left out."""
    values = [[[5, -1.0, 0.25], [0.0, 5, -2], [1.5, 3.0, 5]]]
    table = published_table(("m-1B",), cells(("arc_challenge",)), np.array(values))
    run = RunFolder(tmp_path)
    import_donors(write(tmp_path, table), run)
    rows = read_transfer(run).rows
    found = regime_table(
        rows,
        resample_deltas(rows, (), AnalysisConfig()),
        AnalysisConfig(bootstrap_resamples=100),
        np.full((rows.height, 1), np.nan),
    )
    row = found.filter(regime="all transfer", by="all").row(0, named=True)
    assert row["n"] == 6
    assert row["mean_pp"] == pytest.approx(1.75 / 6)
    assert row["median_pp"] == pytest.approx(0.125)
    assert row["win_rate"] == pytest.approx(0.5)
    assert row["harm_rate"] == pytest.approx(2 / 6)
    assert found.filter(regime="MT-ML", by="all")["mean_pp"].to_list() == pytest.approx([5.0])


# Llama-3.1-8B-Instruct fine-tuned on ARC Arabic, six rows of the published table (arXiv 2511.13368, CC BY 4.0):
# target, plain score, its baseline and delta, norm score, its baseline and delta
PUBLISHED = (
    (
        "arc_challenge",
        "ar",
        0.3258333333333333,
        0.3216666666666667,
        0.416666666666667,
        0.3541666666666667,
        0.3508333333333333,
        0.3333333333333336,
    ),
    (
        "arc_challenge",
        "bn",
        0.2358333333333333,
        0.2383333333333333,
        -0.2500000000000002,
        0.3075,
        0.3125,
        -0.5000000000000004,
    ),
    (
        "arc_challenge",
        "de",
        0.3933333333333333,
        0.3833333333333333,
        1.0000000000000009,
        0.4508333333333333,
        0.4358333333333333,
        1.4999999999999991,
    ),
    (
        "arc_challenge",
        "en",
        0.5133333333333333,
        0.515,
        -0.1666666666666668,
        0.5575,
        0.5516666666666666,
        0.583333333333332,
    ),
    (
        "global_mmlu",
        "ar",
        0.4225,
        0.4541666666666666,
        -3.166666666666668,
        0.4225,
        0.4541666666666666,
        -3.166666666666668,
    ),
    (
        "global_mmlu",
        "bn",
        0.4133333333333333,
        0.4275,
        -1.4166666666666643,
        0.4133333333333333,
        0.4275,
        -1.4166666666666643,
    ),
)


def test_the_headline_arithmetic_on_published_rows_by_hand(tmp_path: Path) -> None:
    """Without the diagonal: -0.5, 1.5, 0.5833, -3.1667, -1.4167; sum -3, two wins, two at or below -1."""
    template = published_table(("Llama-3.1-8B-Instruct",), cells(("arc_challenge",), ("de",)), np.zeros((1, 1, 1)))
    plain = ("score_mean", "score_base_mean", "delta_score_mean")
    norm = ("score_norm_mean", "score_norm_base_mean", "delta_score_norm_mean")
    columns = ("eval_dataset", "eval_language", *plain, *norm)
    rows = pl.DataFrame(PUBLISHED, schema=columns, orient="row").with_columns(
        fine_tuned_language=pl.lit("ar"), regime=pl.Series(["MT-ML", "MT-CL", "MT-CL", "MT-CL", "CT-ML", "CT-CL"])
    )
    table = rows.join(template.drop(*columns, "fine_tuned_language", "regime"), how="cross")
    run = RunFolder(tmp_path)
    import_donors(write(tmp_path, table), run)
    rows = read_transfer(run).rows
    found = regime_table(
        rows,
        resample_deltas(rows, (), AnalysisConfig()),
        AnalysisConfig(bootstrap_resamples=100),
        np.full((rows.height, 1), np.nan),
    )
    row = found.filter(regime="all transfer", by="all").row(0, named=True)
    assert (row["n"], row["win_rate"], row["harm_rate"]) == (5, 2 / 5, 2 / 5)
    assert row["mean_pp"] == pytest.approx(-3 / 5)
    assert row["median_pp"] == pytest.approx(-0.5)
    by_regime = {name: found.filter(regime=name, by="all")["mean_pp"][0] for name in ("MT-ML", "MT-CL", "CT-ML")}
    assert by_regime == pytest.approx({"MT-ML": 1 / 3, "MT-CL": (1.5 + 7 / 12 - 0.5) / 3, "CT-ML": -19 / 6})


def test_a_second_import_replaces_the_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    path = write(tmp_path, published_table(MODELS, cells(), deltas()))
    import_donors(path, run)
    import_donors(path, run)
    assert read_imported(run).height == 72


def test_missing_values_stay_null(tmp_path: Path) -> None:
    table = published_table(MODELS, cells(), deltas()).with_columns(
        delta_score_se=pl.lit(None, dtype=pl.Float64), delta_score_norm_se=pl.lit(float("nan"))
    )
    run = RunFolder(tmp_path)
    import_donors(write(tmp_path, table), run)
    assert read_imported(run)["se_pp"].null_count() == 72


def test_the_report_says_what_came_in(tmp_path: Path) -> None:
    report = import_donors(write(tmp_path, published_table(MODELS, cells(), deltas())), RunFolder(tmp_path))
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(report)
    assert capture.get().startswith("72 aggregates of 2 models, 6 sources and 6 targets, written to")


def broken(table: pl.DataFrame, name: str) -> pl.DataFrame:
    first = pl.int_range(pl.len()) == 1
    changes = {
        "column": table.drop("score_base_mean"),
        "text": table.with_columns(score_mean=pl.lit("high")),
        "name": table.with_columns(eval_language=pl.when(first).then(None).otherwise(pl.col("eval_language"))),
        "twice": pl.concat([table, table[:1]]),
        "regime": table.with_columns(regime=pl.when(first).then(pl.lit("CT-CL")).otherwise(pl.col("regime"))),
        "delta": table.with_columns(delta_score_norm_mean=pl.col("delta_score_norm_mean") + pl.when(first).then(1)),
        "percent": table.with_columns(pl.col("^score.*mean$") * 100),
        "negative": table.with_columns(delta_score_norm_se=pl.lit(-1.0)),
        "no seed": table.with_columns(n_seeds=pl.lit(0)),
        "half": table.with_columns(n_seeds=pl.lit(2.5)),
        "infinite": table.with_columns(n_seeds=pl.lit(float("inf"))),
        "escape": table.with_columns(model_name=pl.lit("\x1b[31mred")),
        "true": table.with_columns(n_seeds=pl.lit(True)),
        "cell": table.with_columns(pl.col("eval_dataset").replace("arc_challenge", "ARC-Challenge")),
    }
    return changes[name]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("column", "has no column 'score_base_mean'; expected the columns"),
        ("text", r"column 'score_mean' of .* holds String; expected numbers"),
        ("name", r"line 3 of .* lacks a name"),
        ("twice", r"has 2 rows for model 'Llama-3.2-1B-Instruct', source_task 'arc_challenge'"),
        ("regime", r"'arc_challenge-de' to 'arc_challenge-en' says regime 'CT-CL'; its cells make it 'MT-CL'"),
        ("delta", r"'arc_challenge-de' to 'arc_challenge-en' says delta .* pp; its scores make it"),
        (
            "percent",
            r"table.csv': base_score of model 'Llama.*', arc_challenge-de to arc_challenge-de is \d.*from 0 to 1",
        ),
        ("negative", r"se_pp of model .* is -1.0; expected a number from 0 to 100"),
        ("no seed", r"n_seeds of model .* is 0.0; expected a whole number from 1"),
        ("half", r"n_seeds of model .* is 2.5; expected a whole number from 1"),
        ("infinite", r"n_seeds of model .* is inf; expected a whole number from 1"),
        ("escape", r"table.csv' names model '\\x1b\[31mred'; expected a name without control characters"),
        ("true", r"column 'n_seeds' of .* holds Boolean; expected numbers"),
        ("cell", "task name 'ARC-Challenge' is not usable"),
    ],
)
def test_a_faulty_table_is_refused(tmp_path: Path, fault: str, message: str) -> None:
    path = write(tmp_path, broken(published_table(MODELS, cells(), deltas()), fault))
    with pytest.raises(UserError, match=message):
        import_donors(path, RunFolder(tmp_path))


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no table at .*nowhere.csv"):
        import_donors(tmp_path / "nowhere.csv", RunFolder(tmp_path))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01,\n\x00")
    with pytest.raises(UserError, match=r"binary.csv"):
        import_donors(tmp_path / "binary.csv", RunFolder(tmp_path))
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.csv' cannot be read as CSV"):
        import_donors(tmp_path / "empty.csv", RunFolder(tmp_path))


def test_a_header_without_rows_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = write(tmp_path, published_table(MODELS, cells(), deltas()).clear())
    with pytest.raises(UserError, match=r"has a header and no rows; give the whole table"):
        import_donors(path, RunFolder(tmp_path))
    assert not (tmp_path / "imported").exists()


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, published_table(MODELS, cells(), deltas()))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(f"{line},{'score_mean' if place == 0 else '0.9'}" for place, line in enumerate(lines)))
    with pytest.raises(UserError, match=r"has column 'score_mean' twice; keep one of them"):
        import_donors(path, RunFolder(tmp_path))


def test_what_is_zero_but_for_binary_fractions_is_no_win_and_no_certainty(tmp_path: Path) -> None:
    """A real row of the release: gemma-3-1b, arc-es to truthfulqa-id, a delta of 1.85e-15 pp with an error of 1.9e-15."""
    table = published_table(MODELS[:1], cells(("arc_challenge",)), np.full((1, 3, 3), 1.85e-15)).with_columns(
        delta_score_norm_se=pl.lit(1.9e-15), delta_score_norm_std=pl.lit(3.3e-15)
    )
    run = RunFolder(tmp_path)
    import_donors(write(tmp_path, table), run)
    rows = read_transfer(run).rows
    assert set(rows["delta_pp"]) == {0.0}
    assert (rows["se_pp"].max(), rows["p_value"].drop_nulls().to_list()) == (0.0, [])
    found = regime_table(
        rows,
        resample_deltas(rows, (), AnalysisConfig()),
        AnalysisConfig(bootstrap_resamples=100),
        np.full((rows.height, 1), np.nan),
    )
    assert found.filter(regime="all transfer", by="all")["win_rate"].to_list() == [0.0]


def test_items_that_seem_redrawn_per_seed_are_said_of_every_row(tmp_path: Path) -> None:
    table = published_table(MODELS, cells(), deltas())
    run = RunFolder(tmp_path)
    assert (
        import_donors(write(tmp_path, table.with_columns(score_norm_base_std=0.0, score_base_std=0.0)), run).remarks
        == ()
    )
    assert read_transfer(run).rows["remark"].null_count() == 72
    varying = table.with_columns(score_norm_base_std=0.021, score_base_std=0.021)
    (remark,) = import_donors(write(tmp_path, varying), run).remarks
    assert remark.startswith(
        "the base scores vary over the seeds (median sd 2.1 pp), as if each seed had drawn its own"
    )
    assert read_transfer(run).rows["remark"].to_list() == [remark] * 72
