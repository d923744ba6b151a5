"""The noise floor as Parquet: what the analysis reads, and what a sweep that goes on reads."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.fuzz.strategies import damaged
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import NOISE_FLOOR_SCHEMA, read_noise_floor
from transfergrid.store.noise_floor import read_noise_floor_file, write_noise_floor

_ROWS = [("m", "arc_challenge", language, 400, 3, 2, 0.1) for language in ("de", "en")]


def _content() -> tuple[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        table = pl.DataFrame(_ROWS, schema=NOISE_FLOOR_SCHEMA, orient="row")
        write_noise_floor(run, "m", table, {"arc_challenge-de": "k"})
        (path,) = run.noise_floor.iterdir()
        return path.name, path.read_bytes()


_NAME, _WHOLE = _content()
CONTENTS = damaged([_WHOLE])


def read(content: bytes, folder: Path) -> None:
    run = RunFolder(folder)
    run.noise_floor.mkdir()
    (run.noise_floor / _NAME).write_bytes(content)
    read_noise_floor_file(run, "m")
    read_noise_floor(run)
