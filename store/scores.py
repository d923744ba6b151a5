"""The record of one scored item: what the engine stores and the analysis reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from transfergrid.grid import Regime, UserError
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
        "source_task": pl.String(),  # null: the base model
        "source_language": pl.String(),  # null: the base model
        "target_task": pl.String(),
        "target_language": pl.String(),
        "item_id": pl.String(),
        "gold": pl.Int16(),
        "pred": pl.Int16(),  # highest log-likelihood; null: not scored
        "pred_norm": pl.Int16(),  # highest log-likelihood per character; null: not scored
        "loglikelihoods_nats": pl.List(pl.Float64()),  # one per choice; null: not scored
        "choice_chars": pl.List(pl.Int32()),
        "n_truncated_tokens": pl.Int32(),
        "primary_metric": pl.String(),  # "acc" or "acc_norm": the metric that is this target's score
        "unscored_reason": pl.String(),  # null: scored
        "run_key": pl.String(),
    }
)
"""Columns of the results store, one row per (model, seed, source, target, item)."""


def regime_expr() -> pl.Expr:
    """Return the regime of a row from its source and target columns."""
    task = pl.col("source_task") == pl.col("target_task")
    language = pl.col("source_language") == pl.col("target_language")
    return (
        pl.when(task & language)
        .then(pl.lit(Regime.MT_ML.value))
        .when(task)
        .then(pl.lit(Regime.MT_CL.value))
        .when(language)
        .then(pl.lit(Regime.CT_ML.value))
        .otherwise(pl.lit(Regime.CT_CL.value))
    )


def score_parts(run: RunFolder) -> list[Path]:
    """Return the files with item rows: the results store's parts, then imported samples."""
    return [*sorted(run.scores.glob("*.parquet")), *sorted((run.imported / "scores").glob("*.parquet"))]


def content_checksum(path: Path) -> str:
    """Return what a part's name says of its content: the start of its SHA-256, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:CHECKSUM_LENGTH]


def check_contents(parts: Iterable[Path]) -> None:
    """Compare every part's content with the checksum in its name; names without one pass.

    Reads every byte, a gigabyte a second and core: call it once a command.

    Raises:
        UserError: If a part cannot be read or its content is not what its name says; names the first.
    """
    named = [(path, found[1]) for path in parts if (found := _NAMED_CHECKSUM.fullmatch(path.name))]
    with ThreadPoolExecutor() as pool:
        fits = pool.map(lambda part: _fits(*part), named)
        for (path, _), is_whole in zip(named, fits, strict=True):
            if not is_whole:
                raise UserError(
                    f"{str(path)!r} does not have the content that its name says: it was damaged or changed after it "
                    "was written; move it away, then make it again ('grid eval' for scores, 'grid import' for imports)"
                )


def _fits(path: Path, checksum: str) -> bool:
    try:
        return content_checksum(path) == checksum
    except OSError as error:
        raise damaged(path, error) from error


def scan_scores(parts: Iterable[Path]) -> pl.LazyFrame:
    """Scan item rows lazily.

    Args:
        parts: Parquet files in SCORE_SCHEMA.

    Raises:
        UserError: If a file cannot be read, or lacks a column or has another type in it.
    """
    paths = list(parts)
    for path in paths:
        check_schema(path, SCORE_SCHEMA)
    if not paths:
        return pl.LazyFrame(schema=SCORE_SCHEMA)
    return pl.scan_parquet(paths, extra_columns="ignore").select(SCORE_SCHEMA.names())


def find_unreadable(parts: Iterable[Path]) -> UserError | None:
    """Return what to say of the first part whose footer is sound but that cannot be read through; None: all can."""
    for path in parts:
        try:
            pl.scan_parquet(path).collect()  # the same way as it failed
        except UNREADABLE as error:
            return damaged(path, error)
    return None


def damaged(path: Path, error: BaseException) -> UserError:
    """Return what to say of a file that cannot be read as Parquet."""
    return UserError(f"{str(path)!r} cannot be read as Parquet: {one_line(error)}; move it away and run again")


def check_schema(path: Path, schema: pl.Schema) -> None:
    """Check the columns of a Parquet file.

    Raises:
        UserError: If the file cannot be read, or lacks a column or has another type in it.
    """
    try:
        found = pl.read_parquet_schema(path)
    except UNREADABLE as error:
        raise damaged(path, error) from error
    for column, dtype in schema.items():
        if column not in found:
            raise UserError(f"{str(path)!r} has no column {column!r}; expected the columns {schema.names()}")
        if found[column] != dtype:
            raise UserError(f"column {column!r} of {str(path)!r} is {found[column]!r}; expected {dtype!r}")
