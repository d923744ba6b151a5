"""The study's table as CSV, up to the transfer table of the run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from rich.console import Console

from tests.analysis.synthetic import cells, published_table
from tests.fuzz.strategies import changed_table, damaged
from transfergrid.analysis.imports.donors import import_donors
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder

_TABLE = published_table(("m-1B",), cells(("arc_challenge",), ("de", "en")), np.zeros((1, 2, 2))).write_csv()
_HEADER, *_ROWS = (line.split(",") for line in _TABLE.splitlines())

CONTENTS = changed_table(_HEADER, _ROWS) | damaged([_TABLE.encode()])


def read(content: bytes, folder: Path) -> None:
    (folder / "table.csv").write_bytes(content)
    run = RunFolder(folder / "run")
    report = import_donors(folder / "table.csv", run)
    Console(file=io.StringIO()).print(report)
    read_transfer(run)
