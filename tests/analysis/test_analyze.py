import json
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import (
    LANGUAGES,
    MODELS,
    TASKS,
    USUAL_TABLES,
    cells,
    item_rows,
    published_table,
    transfer_rows,
    write_run,
)
from transfergrid.analysis.analyze import AnalysisReport, analyze
from transfergrid.analysis.imports.donors import import_donors
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.tables.build import build_tables, tables_from
from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.config.settings import AnalysisConfig, GridConfig, ModelConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import NOISE_FLOOR_SCHEMA

FAST = GridConfig(
    models=MODELS,
    tasks=TASKS,
    languages=LANGUAGES,
    seeds=(17, 42),
    analysis=AnalysisConfig(bootstrap_resamples=100, permutations=99),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("run"), item_rows())


def show(report: AnalysisReport, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def unexplained(table: pl.DataFrame) -> list[str]:
    """Columns with NaN, or rows that are null all over without a reason."""
    floats = [name for name, dtype in table.schema.items() if dtype.is_float()]
    return [name for name in floats if table[name].is_nan().any() or table[name].is_infinite().any()]


def test_every_table_is_written_twice_and_reads_back(run: RunFolder) -> None:
    report = analyze(run, FAST)
    assert {path.name for path in run.tables.iterdir()} == {
        f"{name}.{ending}" for name in USUAL_TABLES for ending in ("parquet", "csv")
    }
    for name, table in report.tables.named():
        assert pl.read_parquet(run.tables / f"{name}.parquet").equals(table)
        assert (run.tables / f"{name}.csv").read_text().splitlines()[0] == ",".join(table.columns)
        assert unexplained(table) == []


def test_the_same_seed_gives_the_same_tables(run: RunFolder) -> None:
    first, second = build_tables(run, FAST), build_tables(run, FAST)
    for (name, one), (_, other) in zip(first.named(), second.named(), strict=True):
        assert one.equals(other), name


def test_progress_names_every_stage(run: RunFolder) -> None:
    stages: list[str] = []
    build_tables(run, FAST, on_progress=stages.append)
    assert stages == ["transfer", "resamples", *all_tables()]


@pytest.mark.parametrize("width", [80, 100])
def test_the_summary_fits_the_terminal_and_says_what_matters(run: RunFolder, width: int) -> None:
    text = show(analyze(run, FAST, write=False), width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for part in (
        "all transfer 60",
        "harm: delta <= -1 pp",
        "Benjamini-Hochberg q <= 0.05 over the whole table",
        "of pairs truly win (",
        "of the mean, over items, sources, targets like these",
        "the harm cut is 1 item of a target",
        "Hubs (donor score surely above",
        "Fragile recipients",
        "Variance of MT-CL, nested:",
        "Variance of MT-CL, crossed:",
        "Consistency Index between models",
        "language pairs are not independent",
    ):
        assert part in flat


def test_the_first_lines_of_the_summary_are_the_regimes(run: RunFolder) -> None:
    lines = show(analyze(run, FAST, write=False)).splitlines()
    assert " ".join(lines[1].split()) == "regime n mean pp 95% interval win % harm % win % harm %"
    assert [line.split()[0] for line in lines[3:8]] == ["all", "MT-ML", "MT-CL", "CT-ML", "CT-CL"]


@pytest.mark.parametrize("name", list(all_tables()))
def test_every_table_can_be_shown_by_name(run: RunFolder, name: str) -> None:
    report = analyze(run, FAST, table=name, write=False)
    for width in (80, 100):
        text = show(report, width)
        assert text.startswith(f"{name}: {report.tables[name].height} rows")
        assert max(map(len, text.splitlines())) <= width
    assert report.as_json() == json.loads(report.tables[name].write_json())
    assert report.rows().equals(report.tables[name])


def test_a_metric_is_asked_for_where_the_matrix_is_shown(run: RunFolder) -> None:
    assert "graded transfer" in show(analyze(run, FAST, table="matrix", metric="graded", write=False))
    with pytest.raises(UserError, match="--metric graded is for 'grid analyze matrix'; other tables have columns of"):
        analyze(run, FAST, table="regimes", metric="graded", write=False)


def test_graded_transfer_stands_in_regimes_roles_and_matrices(run: RunFolder) -> None:
    tables = analyze(run, FAST, write=False).tables
    row = tables.regimes.filter(regime="CT-CL", by="all").row(0, named=True)
    of_regime = tables.transfer.filter(regime="CT-CL")
    assert row["n_graded"] == of_regime.height
    assert row["graded_mean_pp"] == pytest.approx(of_regime["graded_pp"].mean())
    assert row["graded_mean_pp_low"] < row["graded_mean_pp"] < row["graded_mean_pp_high"]
    lost = (of_regime["graded_pp"] < 0) & (of_regime["graded_q"] <= 0.05)
    assert row["graded_loss_rate_significant"] == pytest.approx(lost.mean())
    donor = tables.roles.filter(role="donor", unit="cell", regime="CT-CL", models_by="all", name="arc_challenge-de")
    given = of_regime.filter(source_task="arc_challenge", source_language="de")
    assert donor["graded_score_pp"].item() == pytest.approx(given["graded_pp"].mean())


def test_the_matrix_and_the_hierarchy_are_views_of_tables(run: RunFolder) -> None:
    matrix = analyze(run, FAST, table="matrix", write=False)
    assert matrix.rows().equals(matrix.tables.language_matrices)
    assert matrix.as_json()[0].keys() == dict.fromkeys(matrix.tables.language_matrices.columns).keys()
    hierarchy = analyze(run, FAST, table="hierarchy", write=False)
    donors = hierarchy.rows().filter(unit="language", role="donor", regime="MT-CL")
    # the first two have the same number of right answers
    assert donors["rank"].to_list() == [1, 1, 3]
    assert donors["score_pp"][0] == pytest.approx(donors["score_pp"][1])
    assert hierarchy.rows().write_csv().startswith("role,unit,regime,name,")
    for report in (matrix, hierarchy):
        for width in (80, 100):
            assert max(map(len, show(report, width).splitlines())) <= width


def test_two_parts_in_another_order_give_the_same_tables(run: RunFolder, tmp_path: Path) -> None:
    rows = item_rows().sample(fraction=1, shuffle=True, seed=5)
    other = write_run(tmp_path, rows[:500])
    rows[500:].write_parquet(other.scores / "a-second-part.parquet")
    first, second = build_tables(run, FAST), build_tables(other, FAST)
    for (name, one), (_, twin) in zip(first.named(), second.named(), strict=True):
        assert one.equals(twin), name


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows())
    run.tables.write_text("in the way")
    with pytest.raises(UserError, match=r"the tables cannot be written to .*tables'.*make room there or name another"):
        analyze(run, FAST)


def test_regimes_without_rows_say_so_in_the_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(languages=("de",)))
    assert "MT-CL, CT-CL: no rows with a delta in this regime" in show(analyze(run, FAST, write=False))


def test_json_of_all_tables_holds_every_row(run: RunFolder) -> None:
    report = analyze(run, FAST, write=False)
    found = report.as_json()
    assert {name: len(rows) for name, rows in found.items()} == {
        name: table.height for name, table in report.tables.named()
    }
    assert report.rows().equals(report.tables.regimes)


def test_an_unknown_table_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown table 'regime'; expected one of .*did you mean 'regimes'"):
        analyze(RunFolder(tmp_path), table="regime")


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no adapter scores and no imported table"):
        analyze(RunFolder(tmp_path))


def test_a_run_with_a_baseline_only_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows().filter(pl.col("source_task").is_null()))
    with pytest.raises(UserError, match="has no adapter scores"):
        analyze(run)


def edge(name: str) -> Transfer:
    generator = np.random.default_rng(0)
    grids = {
        "one model": transfer_rows(MODELS[:1], cells(), generator.normal(size=(1, 6, 6))),
        "one language": transfer_rows(MODELS, cells(TASKS, ("de",)), generator.normal(size=(2, 2, 2))),
        "one task": transfer_rows(MODELS, cells(TASKS[:1]), generator.normal(size=(2, 3, 3))),
        "one cell": transfer_rows(MODELS[:1], cells(TASKS[:1], ("de",)), np.ones((1, 1, 1))),
        "constant": transfer_rows(MODELS, cells(), np.zeros((2, 6, 6))),
        "no deltas": transfer_rows(MODELS, cells()).with_columns(
            delta_pp=pl.lit(None, dtype=pl.Float64), reason=pl.lit("lost")
        ),
    }
    by_seed = grids[name].with_columns(seed=pl.lit(17, dtype=pl.Int64)).clear()
    return Transfer(by_seed, grids[name], ())


@pytest.mark.parametrize("name", ["one model", "one language", "one task", "one cell", "constant", "no deltas"])
def test_what_cannot_be_computed_says_why_and_the_other_tables_are_there(name: str) -> None:
    tables = tables_from(edge(name), FAST.analysis)
    for table_name, table in tables.named():
        assert unexplained(table) == [], table_name
        if "reason" in table.columns and table.height and table_name not in ("missing", "transfer", "matrices"):
            main = {"regimes": "mean_pp_low", "roles": "rank_low", "variance": "variance_pp2"}.get(table_name)
            main = main or {"consistency": "median", "consistency_by_source": "mean_tau_b"}.get(
                table_name, "correlation"
            )
            main = {"language_matrices": "mean_pp", "recommendations": "p_help"}.get(table_name, main)
            unsaid = table.filter(pl.col(main).is_null() & pl.col("reason").is_null())
            unsaid = unsaid.filter(pl.col("models_by") == "all") if table_name == "roles" else unsaid
            assert unsaid.is_empty(), table_name
    report = AnalysisReport(tables=tables, settings=FAST.analysis, shown=None, folder=None)
    assert "regime" in show(report, 80)


def test_missing_rows_are_listed_with_their_reason(tmp_path: Path) -> None:
    gone = (pl.col("source_task") == "global_mmlu").fill_null(False) & (pl.col("seed") == 42)
    run = write_run(tmp_path, item_rows().filter(~gone))
    report = analyze(run, FAST)
    assert report.tables.missing.height == 2 * 3 * 6
    assert "Missing: 36 rows: no scores in the store" in show(report)


def test_a_configured_model_without_any_score_is_listed(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(models=MODELS[:1]))
    report = analyze(run, FAST)
    row = report.tables.missing.row(0, named=True)
    assert (row["model"], row["target_task"]) == (MODELS[1], None)
    assert "Missing: 1 row: no adapter scores of this model in the store" in show(report)


def test_an_imported_table_is_analysed_without_items(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    deltas = np.random.default_rng(0).normal(0.5, 2, (2, 6, 6))
    published_table(MODELS, cells(), deltas).write_csv(tmp_path / "table.csv")
    import_donors(tmp_path / "table.csv", run)
    tables = build_tables(run, FAST)
    assert isinstance(tables, AnalysisTables)
    assert tables.transfer_by_seed.is_empty()
    row = tables.regimes.filter(regime="all transfer", by="all").row(0, named=True)
    assert (row["n"], row["resampled"], row["harm_threshold_items"]) == (60, "sources, targets", None)
    assert not math.isnan(row["harm_rate_significant"])


def test_no_colour_where_there_is_no_terminal(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=100).print(analyze(run, FAST, write=False))
    assert not re.search(r"\x1b\[", capsys.readouterr().out)


def test_headings_and_figures_are_whole_at_80_columns_and_what_all_rows_share_stands_once(tmp_path: Path) -> None:
    model = "smollm2-135m-instruct"
    run = write_run(tmp_path, item_rows(models=(model,), seeds=(17,)))
    config = FAST.model_copy(update={"models": (ModelConfig(path=model),), "seeds": (17,)})
    regimes, seeds = (
        show(analyze(run, config, write=False, table=name), 80) for name in ("regimes", "transfer_by_seed")
    )
    assert re.search(r"^regime +group +n +pp +low +high +win +harm +harm$", regimes, re.MULTILINE)
    assert re.search(r"^all transfer +model sm\S*…\S*ct +30 ", regimes, re.MULTILINE)
    assert f"transfer_by_seed: 36 rows, model {model}, seed 17" in seeds
    assert seeds.count(model) == 1
    assert re.search(
        r"^arc_challenge-de +global_mmlu-fr +12 +-?\d+\.\d\d +\d+\.\d\d +\d\.\d+ +\d+$", seeds, re.MULTILINE
    )


def test_the_summary_says_how_many_answers_hang_on_rounding(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows())
    assert "Noise floor" not in show(analyze(run, FAST, write=False))
    run.noise_floor.mkdir()
    floor = [
        (MODELS[0], "arc_challenge", language, 12, flips, flips, 0.1) for language, flips in (("de", 1), ("fr", 3))
    ]
    pl.DataFrame(floor, schema=NOISE_FLOOR_SCHEMA, orient="row").write_parquet(run.noise_floor / "m.parquet")
    text = " ".join(show(analyze(run, FAST, write=False)).split())
    assert "4 of 24 answers of the base change with the order of the arithmetic, at most 3 in one target." in text
