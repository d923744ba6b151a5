"""Tables beside the results store: the noise floor, imported aggregates and remarks on them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.noise_floor import NOISE_FLOOR_SCHEMA
from transfergrid.store.scores import UNREADABLE, check_contents, check_schema, damaged, write_named

KEY = ("model", "source_task", "source_language", "target_task", "target_language")

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


REMARK_SCHEMA = pl.Schema({**dict.fromkeys(KEY, pl.String()), "remark": pl.String()})
"""What must be said of an imported delta wherever it is shown: one row per (model, source, target)."""


def write_import(folder: Path, stem: str, table: pl.DataFrame) -> Path:
    """Write what was imported as ``STEM.CHECKSUM.parquet``, in place of an earlier import; returns the path.

    Raises:
        WriteError: If it cannot be written.
    """
    path = write_named(folder, stem, table)
    remove_import(folder, stem, keep=path)
    return path


def remove_import(folder: Path, stem: str, *, keep: Path | None = None) -> None:
    """Remove what an earlier import wrote, also under its older name without a checksum."""
    for path in (folder / f"{stem}.parquet", *folder.glob(f"{stem}.*.parquet")):
        if path != keep:
            path.unlink(missing_ok=True)


def read_noise_floor(run: RunFolder) -> pl.DataFrame:
    """Return the measured noise floor; no rows where none was measured.

    Raises:
        UserError: If a file cannot be read, has another schema, or a (model, target) stands there twice.
    """
    return _read_all(sorted(run.noise_floor.glob("*.parquet")), NOISE_FLOOR_SCHEMA, "noise floor", ["model", *KEY[3:]])


def read_imported(run: RunFolder) -> pl.DataFrame:
    """Return the imported aggregates; no rows where nothing was imported.

    Raises:
        UserError: If a file cannot be read, has another schema, or a (model, source, target) stands there twice.
    """
    paths = sorted(run.imported.glob("*.parquet"))
    found = _read_all(paths, IMPORTED_SCHEMA, "imported table", ["model", "seed", *KEY[1:]])
    check_numbers(f"an imported table below {str(run.imported)!r}", found)
    return rounded(found)


_BOUNDS = {
    "base_score": (0.0, 1.0),
    "adapter_score": (0.0, 1.0),
    "delta_pp": (-100.0, 100.0),
    "delta_sd_pp": (0.0, 100.0),
    "se_pp": (0.0, 100.0),
    "n_seeds": (1.0, 1e6),
    "size_b": (0.0, 1e6),
}
"""Least and greatest value of the numbers of IMPORTED_SCHEMA."""


def check_numbers(where: str, table: pl.DataFrame) -> None:
    """Refuse numbers that cannot be: scores in percent, negative standard errors, half seeds, infinity.

    Raises:
        UserError: Names the first such row with its value and what is accepted.
    """
    for name, (low, high) in _BOUNDS.items():
        value = pl.col(name).cast(pl.Float64)
        wrong = table.filter(~value.is_between(low, high) | value.is_nan() | ((value % 1 != 0) & (name == "n_seeds")))
        if wrong.height:
            row = wrong.row(0, named=True)
            kind = "whole number" if name == "n_seeds" else "number"
            raise UserError(
                f"{where}: {name} of model {row['model']!r}, {row['source_task']}-{row['source_language']} to "
                f"{row['target_task']}-{row['target_language']} is {row[name]}; expected a {kind} from {low:g} to "
                f"{high:g}"
            )


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Return imported rows with deltas and errors to 9 digits: 1.85e-15 is a zero that was computed in binary."""
    names = ("delta_pp", "delta_sd_pp", "se_pp")
    return table.with_columns(pl.col(names).round(9) + 0.0)  # no -0.0


def read_remarks(run: RunFolder) -> pl.DataFrame:
    """Return the remarks on imported deltas, several on one delta joined; no rows where there are none.

    Raises:
        UserError: If a file cannot be read or has another schema.
    """
    paths = sorted((run.imported / "remarks").glob("*.parquet"))
    found = _read_frames(paths, REMARK_SCHEMA)
    return found.group_by(KEY).agg(pl.col("remark").unique().sort().str.join("; ")).sort(KEY)


def _read_all(paths: list[Path], schema: pl.Schema, name: str, keys: list[str]) -> pl.DataFrame:
    frame = _read_frames(paths, schema)
    refuse_duplicates(frame, keys, name)
    return frame.sort(keys, nulls_last=True)


def _read_frames(paths: list[Path], schema: pl.Schema) -> pl.DataFrame:
    check_contents(paths)
    for path in paths:
        check_schema(path, schema)
    frames = [_read_one(path, schema) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        check_names(path, frame)
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def check_names(path: Path, frame: pl.DataFrame) -> None:
    """Refuse names that no terminal, file or page should be given.

    Raises:
        UserError: If a model's name is missing or has control characters, or a source or target is no cell.
    """
    for model in frame["model"].unique():
        if not model or not model.isprintable():
            raise UserError(f"{str(path)!r} names model {model!r}; expected a name without control characters")
    for side in ("source", "target"):
        names = [f"{side}_task", f"{side}_language"]
        for task, language in frame.select(names).unique().iter_rows() if set(names) <= set(frame.columns) else ():
            if task is not None and language is not None:
                Cell(task, language)
            elif "source" not in frame.columns:  # else it may be a source of no single cell
                raise UserError(f"{str(path)!r} has a row without {side}; import it again")


def _read_one(path: Path, schema: pl.Schema) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=schema.names())
    except UNREADABLE as error:
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
