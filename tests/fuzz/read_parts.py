"""Parts of the results store and imported item rows as Parquet, with and without a checksum in their names."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import polars as pl

from tests.analysis.synthetic import item_rows
from tests.fuzz.strategies import damaged
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import ScoreStore

_ROWS = item_rows(("m-1B",), (17,), ("arc_challenge",), ("de", "en"), n_items=4)


def _parquet(frame: pl.DataFrame, **options: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata={"transfergrid": '{"origin": ["m", 17, "base"]}'}, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


CONTENTS = damaged([_parquet(_ROWS), _parquet(_ROWS, compression="uncompressed")])


def read(content: bytes, folder: Path) -> None:
    run = RunFolder(folder)
    run.scores.mkdir()
    named = run.scores / f"m-1B.s17.arc_challenge-de.{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    # a checksum that fits lets the damage through to Polars; half of the inputs have none in the name
    (named if len(content) % 2 else run.scores / "part.parquet").write_bytes(content)
    ScoreStore(run.scores).scan(repair=False)
    read_transfer(run)
