"""Imported aggregates as Parquet, up to the transfer table."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from tests.fuzz.strategies import damaged
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import IMPORTED_SCHEMA, SE_OF_SEEDS
from transfergrid.store.scores import content_checksum

_CELLS = ("arc_challenge", "de"), ("arc_challenge", "en")
_ROWS = [
    ("m-1B", 1.0, None, *source, *target, 0.5, 0.51, 1.0, 0.5, 0.3, 3, SE_OF_SEEDS, "acc", "x")
    for source in _CELLS
    for target in _CELLS
]


def _content() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(_ROWS, schema=IMPORTED_SCHEMA, orient="row").write_parquet(buffer, compression="uncompressed")
    return buffer.getvalue()


_WHOLE = _content()
CONTENTS = damaged([_WHOLE])


def read(content: bytes, folder: Path) -> None:
    run = RunFolder(folder)
    run.imported.mkdir()
    (run.imported / f"donors.{content_checksum(_WHOLE)}.parquet").write_bytes(content)
    read_transfer(run)
