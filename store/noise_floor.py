"""Flips of predictions between two runs of the base model: the file, and its schema."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from transfergrid.store.files import FOOTER_KEY, write_atomically
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import UNREADABLE

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


def noise_floor_path(run: RunFolder, model: str) -> Path:
    """Return the file of one model's noise floor."""
    return run.noise_floor / f"{model}.parquet"


def read_noise_floor_file(run: RunFolder, model: str) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return a model's table and the run key by target; nothing where there is none or it is not whole."""
    try:
        content = noise_floor_path(run, model).read_bytes()
        keys = json.loads(pl.read_parquet_metadata(io.BytesIO(content))[FOOTER_KEY])
        return pl.read_parquet(io.BytesIO(content)), keys
    except (*UNREADABLE, ValueError, KeyError):
        return pl.DataFrame(schema=NOISE_FLOOR_SCHEMA), {}


def write_noise_floor(run: RunFolder, model: str, table: pl.DataFrame, keys: Mapping[str, str]) -> None:
    """Write a model's table, with the run key by target in the file's metadata."""
    metadata = {FOOTER_KEY: json.dumps(dict(keys))}
    write_atomically(noise_floor_path(run, model), lambda temporary: table.write_parquet(temporary, metadata=metadata))
