"""Sources of several cells on the page: what mixtures and merges do beside their parts, on average."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from transfergrid.analysis.report.numbers import interval, pp
from transfergrid.analysis.tables.build import AnalysisTables


class SeveralRow(NamedTuple):
    """The mean over all sources of one kind and all targets of one regime, as the page shows it."""

    what: str
    model: str
    regime: str
    n_pairs: int
    delta: str
    against_parts: str
    """Difference to the parts' mean with its interval."""
    against_other: str
    """Of mixtures the difference to the sum of the parts, of merges that to training together."""


def several_rows(tables: AnalysisTables) -> list[SeveralRow]:
    """Return the means of the tables ``mixtures`` and ``merges``; none without such sources."""
    found = []
    for table, other in ((tables.mixtures, "sum"), (tables.merges, "together")):
        for row in table.filter(pl.col("target_task").is_null() & pl.col("delta_pp").is_not_null()).iter_rows(
            named=True
        ):
            what = "trained together" if other == "sum" else f"merged, {row['method'] or 'method not recorded'}"
            names = ("minus_mean_pp", f"minus_{other}_pp")
            told = (_with_interval(row, name) for name in names)
            found.append(SeveralRow(what, row["model"], row["regime"], row["n_pairs"], pp(row["delta_pp"]), *told))
    return found


def _with_interval(row: dict[str, float | None], name: str) -> str:
    value = row[name]
    return "not known" if value is None else f"{pp(value)} ({interval(row, name) or 'no interval'})"
