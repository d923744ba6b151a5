"""Parts of the results store and imported item rows as Parquet, with and without a checksum in their names."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from tests.analysis.synthetic import item_rows
from tests.fuzz.strategies import damaged
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import ScoreStore
from transfergrid.store.scores import content_checksum

_ROWS = item_rows(("m-1B",), (17,), ("arc_challenge",), ("de", "en"), n_items=4)


def _parquet(frame: pl.DataFrame, **options: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata={"transfergrid": '{"origin": ["m", 17, "base"]}'}, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


_WHOLE = _parquet(_ROWS)
CONTENTS = damaged([_WHOLE, _parquet(_ROWS, compression="uncompressed")])


def read(content: bytes, folder: Path) -> None:
    run = RunFolder(folder)
    run.scores.mkdir()
    # most carry the checksum of the whole content; a few none, and are read on trial, which takes longer
    name = "part.parquet" if len(content) % 32 == 0 else f"m-1B.s17.arc_challenge-de.{content_checksum(_WHOLE)}.parquet"
    (run.scores / name).write_bytes(content)
    ScoreStore(run.scores).scan(repair=False)
    read_transfer(run)
