"""Deltas between languages that share no items say so, in every table."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.analysis.synthetic import item_rows, write_run
from transfergrid.analysis.transfer.remarks import NOTHING_SHARED, remark_lines
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.data_manifest import MANIFEST, DataManifest
from transfergrid.store.files import write_json


def test_a_language_that_stands_alone_is_remarked_on_in_mt_cl_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, item_rows())
    manifest = DataManifest("", "bundled", {}, {}, {}, [], [], {}, together={"global_mmlu": [["de", "en"], ["fr"]]})
    run.data.mkdir()
    write_json(run.data / MANIFEST, manifest.__dict__)
    found = read_transfer(run)
    for rows in (found.rows, found.by_seed):
        remarked = rows.filter(pl.col("remark").is_not_null())
        assert remarked["remark"].unique().to_list() == [NOTHING_SHARED]
        pairs = {(*pair,) for pair in remarked.select("source_task", "source_language", "target_language").iter_rows()}
        assert pairs == {("global_mmlu", *pair) for pair in (("de", "fr"), ("en", "fr"), ("fr", "de"), ("fr", "en"))}
        assert remarked["regime"].unique().to_list() == ["MT-CL"]
    assert remark_lines(found.rows) == [f"8 deltas of 72: {NOTHING_SHARED}"]
