"""Remarks on imported deltas, shown wherever they or a mean over them are shown."""

from __future__ import annotations

import polars as pl

from transfergrid.wording import count

_SHOWN = 3


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
