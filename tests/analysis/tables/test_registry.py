from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from tests.analysis.synthetic import MODELS, cells, item_rows, transfer_rows, write_run
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.tables import registry
from transfergrid.analysis.tables.build import tables_from
from transfergrid.analysis.tables.registry import render_tables
from transfergrid.analysis.tables.table import Column, Table, TableInputs, schema_of
from transfergrid.cli import main
from transfergrid.config.settings import AnalysisConfig

SETTINGS = AnalysisConfig(bootstrap_resamples=100, permutations=99)
EXTREMES = Table(
    name="extremes",
    row="model",
    estimand="The largest observed delta, for this model and these items.",
    columns=(
        Column("model", pl.String, "", "Base model."),
        Column("largest_pp", pl.Float64, "pp", "Largest delta of the model."),
    ),
    build=lambda inputs: inputs.rows.group_by("model", maintain_order=True).agg(largest_pp=pl.col("delta_pp").max()),
)


def test_a_registered_table_is_computed_shown_listed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "TABLES", [*registry.TABLES, EXTREMES])
    run = write_run(tmp_path / "run", item_rows(seeds=(17,), languages=("de",)))
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, ["analyze", "extremes", "--run", "run"])
    assert shown.exit_code == 0, shown.output
    assert "extremes: 2 rows" in shown.output
    written = pl.read_parquet(run.tables / "extremes.parquet")
    assert written.schema == schema_of(EXTREMES.columns)
    assert written["largest_pp"].to_list() == pl.read_csv(run.tables / "extremes.csv")["largest_pp"].to_list()
    assert "extremes" in CliRunner().invoke(main, ["analyze", "--help"]).output
    assert "| `largest_pp` | pp | Largest delta of the model. |" in render_tables()


@pytest.mark.parametrize("empty", [False, True])
def test_every_table_has_the_columns_that_its_record_names(empty: bool) -> None:
    rows = transfer_rows(MODELS, cells()).with_columns(delta_pp=pl.lit(None if empty else 1.0, dtype=pl.Float64))
    by_seed = rows.with_columns(seed=pl.lit(17, dtype=pl.Int64))
    tables = tables_from(Transfer(by_seed, rows, ()), SETTINGS)
    assert list(tables.frames) == list(registry.all_tables())
    for name, table in registry.all_tables().items():
        if not name.startswith("transfer"):  # these two are what was put in
            assert list(tables[name].schema.items()) == list(schema_of(table.columns).items()), name


def test_the_transfer_tables_of_a_run_have_the_columns_that_their_records_name(tmp_path: Path) -> None:
    write_run(tmp_path / "run", item_rows(seeds=(17,), languages=("de",)))
    for name in ("transfer", "transfer_by_seed"):
        shown = CliRunner().invoke(main, ["analyze", name, "--csv", "--run", str(tmp_path / "run")])
        assert shown.output.splitlines()[0].split(",") == [each.name for each in registry.all_tables()[name].columns]


def test_every_column_says_what_it_is_in_one_sentence_and_names_its_unit() -> None:
    for table in registry.all_tables().values():
        assert table.estimand.endswith(".")
        for column in table.columns:
            assert column.meaning[-1] == ".", column
            assert not column.name.endswith("_pp") or column.unit == "pp", column
            assert column.dtype == pl.String or column.unit or column.name in ("seed", "df"), column


def test_a_shared_computation_is_done_once_and_unknown_tables_are_no_attributes() -> None:
    calls = []

    def count_rows(inputs: TableInputs) -> int:
        calls.append(inputs)
        return inputs.rows.height

    rows = transfer_rows(MODELS, cells())
    transfer = Transfer(rows.with_columns(seed=pl.lit(17, dtype=pl.Int64)).clear(), rows, ())
    inputs = TableInputs(transfer, SETTINGS, rows["delta_pp"].to_numpy()[:, None].astype("float32"))
    assert [inputs.once(count_rows), inputs.once(count_rows)] == 2 * [rows.height]
    assert len(calls) == 1
    with pytest.raises(AttributeError, match=r"there is no table 'regime'; expected one of \['regimes'"):
        _ = tables_from(transfer, SETTINGS).regime
