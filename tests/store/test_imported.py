import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.analysis.synthetic import item_rows, write_run
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import (
    IMPORTED_SCHEMA,
    NOISE_FLOOR_SCHEMA,
    read_imported,
    read_noise_floor,
    write_import,
)
from transfergrid.store.noise_floor import read_noise_floor_file
from transfergrid.store.scores import SCORE_SCHEMA, scan_scores, score_parts


def test_an_empty_run_has_no_rows_but_all_columns(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert scan_scores(score_parts(run)).collect().schema == SCORE_SCHEMA
    assert read_noise_floor(run).schema == NOISE_FLOOR_SCHEMA
    assert read_imported(run).schema == IMPORTED_SCHEMA


def test_parts_of_the_store_and_imported_samples_are_read_together(tmp_path: Path) -> None:
    rows = item_rows(models=("m",), seeds=(1,), n_items=2)
    run = write_run(tmp_path, rows.filter(pl.col("source_task").is_null()))
    (run.imported / "scores").mkdir(parents=True)
    rows.filter(pl.col("source_task").is_not_null()).write_parquet(run.imported / "scores" / "lm_eval.parquet")
    assert scan_scores(score_parts(run)).collect().height == rows.height


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(n_items=1).drop("gold"))
    with pytest.raises(UserError, match="has no column 'gold'"):
        scan_scores(score_parts(run))


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows(n_items=1).with_columns(pl.col("pred").cast(pl.Float64)))
    with pytest.raises(UserError, match=r"column .pred. of .* is Float64; expected Int16"):
        scan_scores(score_parts(run))


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.scores.mkdir()
    (run.scores / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"broken.parquet' cannot be read as Parquet"):
        scan_scores(score_parts(run))


def test_a_noise_floor_measured_twice_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.noise_floor.mkdir()
    row = pl.DataFrame([("m", "arc_challenge", "de", 400, 3, 2, 0.1)], schema=NOISE_FLOOR_SCHEMA, orient="row")
    row.write_parquet(run.noise_floor / "a.parquet")
    assert read_noise_floor(run)["n_flips"].to_list() == [3]
    row.write_parquet(run.noise_floor / "b.parquet")
    with pytest.raises(UserError, match="noise floor has 2 rows for model 'm', target_task 'arc_challenge'"):
        read_noise_floor(run)


def test_an_imported_table_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.imported.mkdir()
    rows = pl.DataFrame([{"model": f"m{place}", "delta_pp": place * 0.37} for place in range(5000)])
    wide = rows.with_columns(
        pl.lit(None, dtype=dtype).alias(name) for name, dtype in IMPORTED_SCHEMA.items() if name not in rows.columns
    )
    path = run.imported / "donors.parquet"
    wide.select(IMPORTED_SCHEMA.names()).write_parquet(path)
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"donors.parquet' cannot be read as Parquet"):
        read_imported(run)


ROW = ("m", 1.0, None, "arc_challenge", "de", "arc_challenge", "en", 0.5, 0.51, 1.0, 0.5, 0.3, 3, "seeds", "acc", "x")


def write_imported(run: RunFolder, **changes: object) -> None:
    run.imported.mkdir(exist_ok=True)
    frame = pl.DataFrame([ROW], schema=IMPORTED_SCHEMA, orient="row")
    changed = [pl.lit(value, dtype=IMPORTED_SCHEMA[name]).alias(name) for name, value in changes.items()]
    frame.with_columns(changed).write_parquet(run.imported / "donors.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base_score": 41.0},
            r"base_score of model 'm', arc_challenge-de to arc_challenge-en is 41.0; expected a number",
        ),
        ({"se_pp": -1.0}, "se_pp of model 'm'.* is -1.0"),
        ({"delta_pp": float("nan")}, "delta_pp of model 'm'.* is nan"),
        ({"n_seeds": 0}, "n_seeds of model 'm'.* is 0; expected a whole number from 1"),
        ({"model": "\x1b[1m"}, r"donors.parquet' names model '\\x1b\[1m'; expected a name without control characters"),
        ({"model": None}, r"donors.parquet' names model None"),
        ({"target_task": "A b"}, "task name 'A b' is not usable"),
        ({"source_language": None}, "has a row without source; import it again"),
    ],
)
def test_imported_rows_that_cannot_be_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_imported(run, **changes)
    with pytest.raises(UserError, match=message):
        read_imported(run)


def test_imported_zeros_are_zeros(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_imported(run, delta_pp=-1.85e-15, se_pp=1.9e-15, delta_sd_pp=3e-15)
    row = read_imported(run).row(0, named=True)
    assert [str(row[name]) for name in ("delta_pp", "se_pp", "delta_sd_pp")] == ["0.0", "0.0", "0.0"]


def test_an_import_replaces_the_one_before_under_its_older_name_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_imported(run)
    frame = read_imported(run)
    first = write_import(run.imported, "donors", frame)
    assert [path.name for path in run.imported.iterdir()] == [first.name]
    assert read_imported(run).equals(frame)
    first.write_bytes(first.read_bytes().replace(b"arc_challenge", b"arc_challengf"))
    with pytest.raises(UserError, match="does not have the content that its name says"):
        read_imported(run)


def test_damage_that_ends_the_process_of_polars_is_one_sentence(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.noise_floor.mkdir()
    shutil.copy(Path(__file__).parent / "ends_polars.parquet", run.noise_floor / "m.parquet")
    with pytest.raises(UserError, match=r"m.parquet' cannot be read as Parquet: reading it ends the process"):
        read_noise_floor(run)
    table, keys = read_noise_floor_file(run, "m")
    assert (table.height, keys) == (0, {})
