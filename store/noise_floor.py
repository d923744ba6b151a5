"""Flips of predictions between two runs of the base model: the file, and its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from transfergrid.grid import UserError
from transfergrid.store.files import FOOTER_KEY
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import CHECKSUM_LENGTH, UNREADABLE, check_contents, write_named

NOISE_FLOOR_SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "target_task": pl.String(),
        "target_language": pl.String(),
        "n_items": pl.Int64(),
        "n_flips": pl.Int64(),  # predictions by the target's primary metric that differ
        "n_flips_acc": pl.Int64(),  # predictions by acc that differ
        "max_abs_diff_nats": pl.Float64(),
    }
)
"""One row per (model, target): predictions that differ between two scorings of the base model."""


def read_noise_floor_file(run: RunFolder, model: str) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return a model's table and the run key by target; nothing where there is none or it is not whole."""
    for path in _files(run, model):
        try:
            check_contents([path])
            return pl.read_parquet(path), json.loads(pl.read_parquet_metadata(path)[FOOTER_KEY])
        except (*UNREADABLE, ValueError, KeyError, UserError):
            continue
    return pl.DataFrame(schema=NOISE_FLOOR_SCHEMA), {}


def write_noise_floor(run: RunFolder, model: str, table: pl.DataFrame, keys: Mapping[str, str]) -> None:
    """Write a model's table, with the run key by target in the file's metadata, in place of the one before."""
    drop_noise_floor(run, model)
    write_named(run.noise_floor, model, table, {FOOTER_KEY: json.dumps(dict(keys))})


def drop_noise_floor(run: RunFolder, model: str) -> None:
    """Remove a model's table."""
    for path in _files(run, model):
        path.unlink()


def _files(run: RunFolder, model: str) -> list[Path]:
    """Return the files of a model's table: one with a checksum in its name, or one of an older version without."""
    name = re.compile(rf"{re.escape(model)}(\.[0-9a-f]{{{CHECKSUM_LENGTH}}})?\.parquet")
    return sorted(path for path in run.noise_floor.glob("*.parquet") if name.fullmatch(path.name))
