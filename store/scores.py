"""The record of one scored item: what the engine stores and the analysis reads."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import polars as pl

from transfergrid.grid import BASE_KIND, BASELINE_NAME, CELL_KIND, VARIANT_MARK, Cell, Source, UserError, regime_by_kind
from transfergrid.store.files import write_atomically
from transfergrid.store.folder import RunFolder
from transfergrid.wording import one_line

UNREADABLE = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises where a file is damaged; a panic is no `Exception`."""

CHECKSUM_LENGTH = 16
_NAMED_CHECKSUM = re.compile(rf".*\.([0-9a-f]{{{CHECKSUM_LENGTH}}})\.parquet")

SCORE_SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "seed": pl.Int64(),  # null: the base model, which has no training seed
        "source_task": pl.String(),  # of a usual single-cell adapter; null: any other source
        "source_language": pl.String(),
        "target_task": pl.String(),
        "target_language": pl.String(),
        "item_id": pl.String(),
        "gold": pl.Int16(),
        "pred": pl.Int16(),  # highest log-likelihood; null: not scored
        "pred_norm": pl.Int16(),  # highest log-likelihood per character; null: not scored
        "loglikelihoods_nats": pl.List(pl.Float64()),  # one per choice; null: not scored
        "choice_chars": pl.List(pl.Int32()),
        "n_truncated_tokens": pl.Int32(),
        "primary_metric": pl.String(),  # name of the metric that is this target's score
        "unscored_reason": pl.String(),  # null: scored
        "run_key": pl.String(),
        "source": pl.String(),  # name; "base": the base model
        "source_kind": pl.String(),  # one of grid.KINDS
        "source_cells": pl.String(),  # names of the cells it was trained on, blanks between; null: the base model
        "value": pl.Float64(),  # by the primary metric, 0..1; null: not scored
        "output": pl.String(),  # what the model said; null: not scored, or a mode in which it says nothing
    }
)
"""Columns of the results store, one row per (model, seed, source, target, item)."""

VARIANT = pl.col("source").str.extract(f"{VARIANT_MARK}(.+)$")
"""Variant of a row's source; null: the main recipe."""
SOURCE_COLUMNS = ("source", "source_kind", "source_cells")
"""Columns that say which source a row is of."""

ADDED_COLUMNS = (*SOURCE_COLUMNS, "value", "output")
"""Columns that parts written before version 0.2 lack."""
Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def source_columns(source: Source) -> dict[str, str | None]:
    """Return what the store says of a source, by column."""
    cell = source.cell
    return {
        "source_task": None if cell is None else cell.task,
        "source_language": None if cell is None else cell.language,
        "source": source.name,
        "source_kind": source.kind,
        "source_cells": " ".join(cell.name for cell in source.cells) or None,
    }


def with_sources(frame: Frame) -> Frame:
    """Add `SOURCE_COLUMNS` to rows of the base and of single-cell adapters, from their task and language."""
    cell = pl.concat_str("source_task", "source_language", separator="-")  # null: the base
    return frame.with_columns(
        source=cell.fill_null(BASELINE_NAME),
        source_kind=pl.when(pl.col("source_task").is_null()).then(pl.lit(BASE_KIND)).otherwise(pl.lit(CELL_KIND)),
        source_cells=cell,
    )


def with_regime(frame: pl.DataFrame) -> pl.DataFrame:
    """Add ``regime``, the relation of a row's source to its target by the rule of the source's kind; null: the base.

    Args:
        frame: Has the target's columns and `SOURCE_COLUMNS`, or the latter are added by `with_sources`.

    Raises:
        UserError: If this version does not know a source's kind.
    """
    filled = frame if "source" in frame.columns else with_sources(frame)
    key = [*SOURCE_COLUMNS, "target_task", "target_language"]
    pairs = filled.select(key).unique()
    regimes = [
        regime_by_kind(kind, [Cell.parse(cell) for cell in (cells or "").split()], Cell(task, language))
        for _, kind, cells, task, language in pairs.iter_rows()
    ]
    found = pairs.with_columns(regime=pl.Series(regimes, dtype=pl.String))
    return filled.join(found, on=key, how="left", nulls_equal=True, maintain_order="left", validate="m:1")


def score_parts(run: RunFolder) -> list[Path]:
    """Return the files with item rows: the results store's parts, then imported samples."""
    return [*sorted(run.scores.glob("*.parquet")), *sorted((run.imported / "scores").glob("*.parquet"))]


def content_checksum(content: bytes | Path) -> str:
    """Return what a part's name says of its content: the start of its SHA-256, hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()[:CHECKSUM_LENGTH]
    with content.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:CHECKSUM_LENGTH]


def write_named(folder: Path, stem: str, table: pl.DataFrame, metadata: dict[str, str] | None = None) -> Path:
    """Write a table as ``STEM.CHECKSUM.parquet``, the checksum that of the file's content; return the path.

    Raises:
        WriteError: If it cannot be written.
    """
    buffer = io.BytesIO()
    table.write_parquet(buffer, metadata=metadata)
    content = buffer.getvalue()
    path = folder / f"{stem}.{content_checksum(content)}.parquet"
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path


def check_contents(parts: Iterable[Path]) -> None:
    """Compare every part's content with the checksum in its name; files without one are read on trial.

    Reads every byte, a gigabyte a second and core: call it once a command.

    Raises:
        UserError: If a part cannot be read or its content is not what its name says; names the first.
    """
    names = [(path, _NAMED_CHECKSUM.fullmatch(path.name)) for path in parts]
    if unnamed := [path for path, found in names if not found]:
        _read_on_trial(unnamed)
    named = [(path, found[1]) for path, found in names if found]
    with ThreadPoolExecutor() as pool:
        fits = pool.map(lambda part: _fits(*part), named)
        for (path, _), is_whole in zip(named, fits, strict=True):
            if not is_whole:
                raise UserError(
                    f"{str(path)!r} does not have the content that its name says: it was damaged or changed after it "
                    "was written; move it away, then make it again ('grid eval' for scores, 'grid import' for imports)"
                )


def _read_on_trial(paths: list[Path]) -> None:
    """Read files in a process of its own, since Polars ends its process on some damage."""
    code = "import sys, polars\nfor path in sys.argv[1:]:\n    print(path, flush=True)\n    polars.read_parquet(path)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] if done.returncode == 1 else "reading it ends the process"
        raise damaged(Path(done.stdout.splitlines()[-1]), reason)


def _fits(path: Path, checksum: str) -> bool:
    try:
        return content_checksum(path) == checksum
    except OSError as error:
        raise damaged(path, error) from error


def scan_scores(parts: Iterable[Path]) -> pl.LazyFrame:
    """Scan item rows lazily.

    Args:
        parts: Parquet files in SCORE_SCHEMA; older ones may lack the columns that came later.

    Raises:
        UserError: If a file cannot be read, or lacks a column or has another type in it.
    """
    whole: list[Path] = []
    older: list[Path] = []
    for path in parts:
        found = check_schema(path, SCORE_SCHEMA, optional=ADDED_COLUMNS)
        (whole if set(ADDED_COLUMNS) <= found.keys() else older).append(path)
    frames = [pl.scan_parquet(paths, extra_columns="ignore") for paths in (whole, older) if paths]
    if older:
        frames[-1] = complete_rows(frames[-1])
    if not frames:
        return pl.LazyFrame(schema=SCORE_SCHEMA)
    return pl.concat([frame.select(SCORE_SCHEMA.names()) for frame in frames])


def complete_rows(frame: Frame) -> Frame:
    """Add the columns that rows of an older part lack: its metrics are acc and acc_norm, its sources have one cell."""
    pred = pl.when(pl.col("primary_metric") == "acc_norm").then("pred_norm").otherwise("pred")
    return with_sources(frame).with_columns(
        value=(pred == pl.col("gold")).cast(pl.Float64), output=pl.lit(None, dtype=pl.String)
    )


def find_unreadable(parts: Iterable[Path]) -> UserError | None:
    """Return what to say of the first part whose footer is sound but that cannot be read through; None: all can."""
    for path in parts:
        try:
            pl.scan_parquet(path).collect()  # the same way as it failed
        except UNREADABLE as error:
            return damaged(path, error)
    return None


def damaged(path: Path, error: BaseException | str) -> UserError:
    """Return what to say of a file that cannot be read as Parquet."""
    return UserError(f"{str(path)!r} cannot be read as Parquet: {one_line(error)}; move it away and run again")


def check_schema(path: Path, schema: pl.Schema, *, optional: Collection[str] = ()) -> pl.Schema:
    """Check the columns of a Parquet file and return them.

    Raises:
        UserError: If the file cannot be read, or lacks a column or has another type in it.
    """
    try:
        found = pl.Schema(pl.read_parquet_schema(path))
    except UNREADABLE as error:
        raise damaged(path, error) from error
    for column, dtype in schema.items():
        if column not in found:
            if column in optional:
                continue
            raise UserError(f"{str(path)!r} has no column {column!r}; expected the columns {schema.names()}")
        if found[column] != dtype:
            raise UserError(f"column {column!r} of {str(path)!r} is {found[column]!r}; expected {dtype!r}")
    return found
