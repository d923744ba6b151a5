"""Reads what a run scored or imported: parts of the results store, the noise floor, imported aggregates."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import check_schema, damaged

NOISE_FLOOR_SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "target_task": pl.String(),
        "target_language": pl.String(),
        "n_items": pl.Int64(),
        "n_flips": pl.Int64(),
        "n_flips_acc": pl.Int64(),
        "max_abs_diff_nats": pl.Float64(),
    }
)
"""One row per (model, target): predictions that differ between two scorings of the base model."""

SE_OF_SEEDS = "seeds"
"""A standard error across training seeds that share their items: the noise of items and baseline is not in it."""
SE_OF_SEEDS_AND_ITEMS = "seeds and items"
"""A standard error across training seeds, each with test items of its own: the noise of items is in it."""

IMPORTED_SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "size_b": pl.Float64(),  # null: not said
        "seed": pl.Int64(),  # null: averaged over seeds
        "source_task": pl.String(),
        "source_language": pl.String(),
        "target_task": pl.String(),
        "target_language": pl.String(),
        "base_score": pl.Float64(),  # 0..1
        "adapter_score": pl.Float64(),  # 0..1
        "delta_pp": pl.Float64(),
        "delta_sd_pp": pl.Float64(),  # across seeds; null: one seed or not said
        "se_pp": pl.Float64(),  # of delta_pp; null: not said
        "n_seeds": pl.Int64(),
        "se_origin": pl.String(),  # one of the two above or "unpaired" (items, without pairing)
        "primary_metric": pl.String(),
        "origin": pl.String(),  # file or folder the row came from
    }
)
"""Imported aggregates: one row per (model, source, target)."""


def read_noise_floor(run: RunFolder) -> pl.DataFrame:
    """Return the measured noise floor; no rows where none was measured.

    Raises:
        UserError: If a file cannot be read, has another schema, or a (model, target) stands there twice.
    """
    return _read_all(sorted(run.noise_floor.glob("*.parquet")), NOISE_FLOOR_SCHEMA, "noise floor", 3)


def read_imported(run: RunFolder) -> pl.DataFrame:
    """Return the imported aggregates; no rows where nothing was imported.

    Raises:
        UserError: If a file cannot be read, has another schema, or a (model, source, target) stands there twice.
    """
    return _read_all(sorted(run.imported.glob("*.parquet")), IMPORTED_SCHEMA, "imported table", 7)


def _read_all(paths: list[Path], schema: pl.Schema, name: str, n_keys: int) -> pl.DataFrame:
    for path in paths:
        check_schema(path, schema)
    if not paths:
        return pl.DataFrame(schema=schema)
    frame = pl.concat([_read_one(path, schema) for path in paths])
    keys = [column for column in schema.names()[:n_keys] if column not in ("size_b", "n_items")]
    refuse_duplicates(frame, keys, name)
    return frame.sort(keys, nulls_last=True)


def _read_one(path: Path, schema: pl.Schema) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=schema.names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise damaged(path, error) from error


def refuse_duplicates(frame: pl.DataFrame, keys: list[str], name: str) -> None:
    """Refuse a table in which two rows have the same key.

    Raises:
        UserError: Names the first repeated key and how often it is there.
    """
    repeated = frame.group_by(keys).len().filter(pl.col("len") > 1).sort(keys, nulls_last=True)
    if repeated.height:
        first = repeated.row(0, named=True)
        key = ", ".join(f"{column} {first[column]!r}" for column in keys)
        raise UserError(
            f"the {name} has {first['len']} rows for {key} ({repeated.height} such keys); "
            "remove the part that was written twice"
        )
