"""Brings the study's published table of results into a run."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from transfergrid.analysis.imports.report import ImportReport, summarise_import
from transfergrid.analysis.records import KEY
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import (
    IMPORTED_SCHEMA,
    SE_OF_SEEDS,
    SE_OF_SEEDS_AND_ITEMS,
    check_names,
    check_numbers,
    refuse_duplicates,
    remove_import,
    rounded,
    write_import,
)
from transfergrid.store.scores import UNREADABLE, with_regime
from transfergrid.wording import one_line

NORM_TASKS = ("arc_challenge", "hellaswag")
"""Tasks whose score is acc_norm; the others' is acc."""

_RENAMED = {
    "model_name": "model",
    "model_size": "size_b",
    "fine_tuned_dataset": "source_task",
    "fine_tuned_language": "source_language",
    "eval_dataset": "target_task",
    "eval_language": "target_language",
}
_PLAIN = {
    "adapter_score": "score_mean",
    "base_score": "score_base_mean",
    "delta_pp": "delta_score_mean",
    "delta_sd_pp": "delta_score_std",
    "se_pp": "delta_score_se",
}
_NORM = {
    "adapter_score": "score_norm_mean",
    "base_score": "score_norm_base_mean",
    "delta_pp": "delta_score_norm_mean",
    "delta_sd_pp": "delta_score_norm_std",
    "se_pp": "delta_score_norm_se",
}
_TEXTS = ("model_name", "fine_tuned_dataset", "fine_tuned_language", "eval_dataset", "eval_language", "regime")
_NUMBERS = ("model_size", *_PLAIN.values(), *_NORM.values(), "n_seeds")

_BASE_SDS = ("score_norm_base_std", "score_base_std")
"""Columns with the sd over seeds of the base's norm and plain score; a table may lack them."""

_DELTA_TOLERANCE_PP = 0.01
_MIN_SD = 1e-9


def import_donors(csv: Path, run: RunFolder) -> ImportReport:
    """Read the study's table of results into ``imported/donors.CHECKSUM.parquet``; a second import replaces the first.

    The score of a cell is acc_norm for ARC and HellaSwag (the table's ``norm`` columns) and acc elsewhere.

    Args:
        csv: Table with the release's columns: scores in 0..1, deltas in pp, one row per (model, source, target).
        run: The run's folder.

    Raises:
        UserError: If the file cannot be read or has no rows, lacks a column or a name, has a (model, source, target)
            twice, or a row's regime or delta contradicts its cells or scores.
    """
    raw = _read_csv(csv)
    _check_columns(csv, raw)
    table = _convert(csv, raw)
    check_names(csv, table)
    refuse_duplicates(table, list(KEY), f"table {str(csv)!r}")
    check_numbers(repr(str(csv)), table)
    _check_rows(csv, table)
    imported = rounded(table.cast({"n_seeds": pl.Int64}).select(IMPORTED_SCHEMA.names()).sort(KEY))
    path = write_import(run.imported, "donors", imported)
    remarks = _write_remarks(table, run)
    return summarise_import(path, imported, "aggregates", remarks)


def _write_remarks(table: pl.DataFrame, run: RunFolder) -> tuple[str, ...]:
    """Write a remark if the base scores vary over seeds: the seeds may then have different items."""
    varying = table.filter(pl.col("base_sd") > _MIN_SD)
    if varying.is_empty():
        remove_import(run.imported / "remarks", "donors")
        return ()
    sd_pp = 100 * float(varying["base_sd"].median())  # type: ignore[arg-type]
    remark = (
        f"the base scores vary over the seeds (median sd {sd_pp:.1f} pp), as if each seed had drawn its own items: "
        "standard errors are those over seeds, which hold the items' noise only if it had"
    )
    write_import(run.imported / "remarks", "donors", table.select(KEY).with_columns(remark=pl.lit(remark)))
    return (remark,)


def _read_csv(csv: Path) -> pl.DataFrame:
    try:
        return pl.read_csv(csv, infer_schema_length=None, null_values=["", "NaN", "nan", "NA"])
    except FileNotFoundError as error:
        raise UserError(f"no table at {str(csv)!r}; give the path of the downloaded CSV file") from error
    except UNREADABLE as error:
        raise UserError(f"{str(csv)!r} cannot be read as CSV: {one_line(error)}") from error


def _check_columns(csv: Path, raw: pl.DataFrame) -> None:
    if twice := [name for name in raw.columns if re.search(r"_duplicated_\d+$", name)]:  # as Polars renames them
        raise UserError(f"{str(csv)!r} has column {twice[0].rpartition('_duplicated_')[0]!r} twice; keep one of them")
    wanted = [*_TEXTS, *_NUMBERS]
    if missing := [name for name in wanted if name not in raw.columns]:
        raise UserError(f"{str(csv)!r} has no column {missing[0]!r}; expected the columns {wanted}")
    if raw.is_empty():
        raise UserError(f"{str(csv)!r} has a header and no rows; give the whole table of the release")
    for name in _NUMBERS:
        if not raw[name].dtype.is_numeric() and raw[name].null_count() < raw.height:
            raise UserError(f"column {name!r} of {str(csv)!r} holds {raw[name].dtype}; expected numbers")
    if raw.select(pl.any_horizontal(pl.col(_TEXTS).is_null()).any()).item():
        row = raw.with_row_index("line", offset=2).filter(pl.any_horizontal(pl.col(_TEXTS).is_null()))["line"][0]
        raise UserError(f"line {row} of {str(csv)!r} lacks a name; expected {list(_TEXTS)} in every row")


def _convert(csv: Path, raw: pl.DataFrame) -> pl.DataFrame:
    norm = pl.col("eval_dataset").is_in(NORM_TASKS)
    norm_sd, plain_sd = (
        pl.col(name).cast(pl.Float64, strict=False) if name in raw.columns else pl.lit(None, dtype=pl.Float64)
        for name in _BASE_SDS
    )
    return raw.with_columns(pl.col(_TEXTS).cast(pl.String), pl.col(_NUMBERS).cast(pl.Float64)).select(
        *(pl.col(old).alias(new) for old, new in _RENAMED.items()),
        *(pl.when(norm).then(pl.col(_NORM[name])).otherwise(pl.col(_PLAIN[name])).alias(name) for name in _PLAIN),
        "regime",
        "n_seeds",
        base_sd=pl.when(norm).then(norm_sd).otherwise(plain_sd),
        seed=pl.lit(None, dtype=pl.Int64),
        se_origin=pl.when(pl.when(norm).then(norm_sd).otherwise(plain_sd) > _MIN_SD)
        .then(pl.lit(SE_OF_SEEDS_AND_ITEMS))
        .otherwise(pl.lit(SE_OF_SEEDS)),
        primary_metric=pl.when(norm).then(pl.lit("acc_norm")).otherwise(pl.lit("acc")),
        origin=pl.lit(csv.name),
    )


def _check_rows(csv: Path, table: pl.DataFrame) -> None:
    cells = table.select(pl.col("source_task", "target_task"), pl.col("source_language", "target_language")).unique()
    for source_task, target_task, source_language, target_language in cells.iter_rows():
        Cell(source_task, source_language)
        Cell(target_task, target_language)
    expected = with_regime(table.drop("regime"))["regime"]
    wrong = table.with_columns(expected=expected).filter(pl.col("regime") != pl.col("expected"))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise UserError(f"{_row_name(csv, row)} says regime {row['regime']!r}; its cells make it {row['expected']!r}")
    computed = 100 * (pl.col("adapter_score") - pl.col("base_score"))
    off = table.with_columns(computed=computed).filter(
        (pl.col("computed") - pl.col("delta_pp")).abs() > _DELTA_TOLERANCE_PP
    )
    if off.height:
        row = off.row(0, named=True)
        raise UserError(
            f"{_row_name(csv, row)} says delta {row['delta_pp']:.4f} pp; its scores make it {row['computed']:.4f} pp"
        )


def _row_name(csv: Path, row: dict[str, object]) -> str:
    source, target = (f"{row[f'{side}_task']}-{row[f'{side}_language']}" for side in ("source", "target"))
    return f"{str(csv)!r}: row {row['model']!r}, {source!r} to {target!r}"
