"""Remarks on deltas, shown wherever they or a mean over them are shown."""

from __future__ import annotations

from itertools import permutations

import polars as pl

from transfergrid.analysis.records import KEY, PAIR
from transfergrid.store.data_manifest import read_manifest
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_remarks
from transfergrid.wording import count

NOTHING_SHARED = (
    "source and target language of this task share no items by id, so that MT-CL compares different questions and a "
    "train item that translates a test item is not noticed"
)
_SHOWN = 3


def add_remarks(rows: pl.DataFrame, run: RunFolder) -> pl.DataFrame:
    """Add the column ``remark``: on imported deltas, and on those between languages that share no items."""
    together = {} if (manifest := read_manifest(run.data)) is None else manifest.together
    apart = [
        (task, source, task, target, NOTHING_SHARED)
        for task, groups in together.items()
        for one, other in permutations(groups, 2)
        for source in one
        for target in other
    ]
    marked = pl.DataFrame(apart, schema=dict.fromkeys((*PAIR, "of_items"), pl.String), orient="row")
    frame = rows
    for on, remarks in ((KEY, read_remarks(run)), (PAIR, marked)):
        frame = frame.join(remarks, on=list(on), how="left", validate="m:1", maintain_order="left")
    both = pl.concat_str("remark", "of_items", separator="; ", ignore_nulls=True)
    return frame.with_columns(remark=pl.when(both != "").then(both)).drop("of_items")


def remark_lines(transfer: pl.DataFrame) -> list[str]:
    """Return one line per remark of the transfer table, with its number of deltas; most frequent first.

    Three remarks are shown; the others are counted.
    """
    if "remark" not in transfer.columns:
        return []
    found = (
        transfer.filter(pl.col("remark").is_not_null())
        .group_by("remark")
        .len()
        .sort("len", "remark", descending=[True, False])
    )
    lines = [f"{count(n, 'delta')} of {transfer.height:,}: {remark}" for remark, n in found.head(_SHOWN).iter_rows()]
    return (
        lines
        if found.height <= _SHOWN
        else [*lines, f"{count(found.height - _SHOWN, 'more remark')}: table 'transfer'"]
    )


def with_remark(table: pl.DataFrame, lines: list[str]) -> pl.DataFrame:
    """Add the remarks as a column to a table that has none; a table as it is where there are no remarks."""
    if not lines or "remark" in table.columns:
        return table
    return table.with_columns(remark=pl.lit("; ".join(lines)))
