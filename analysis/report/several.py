"""Other sources on the page, on average: mixtures and merges beside their parts, variants beside the main recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from transfergrid.analysis.report.numbers import interval, percent, pp
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.grid import CELL_KIND


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


class VariantRow(NamedTuple):
    """The mean of a variant over all pairs of a regime, as the page shows it."""

    what: str
    model: str
    regime: str
    n_pairs: int
    delta: str
    of_main: str
    difference: str
    """Variant minus main recipe, with its interval."""
    won: str
    """Observed wins, and those of the main recipe."""
    harmed: str
    weights: str
    """Trainable parameters, and those of the main recipe."""
    seconds: str


def variant_rows(tables: AnalysisTables) -> list[VariantRow]:
    """Return the rows of the table ``variants``; none without variants."""
    return [_variant_row(row) for row in tables.variants.iter_rows(named=True)]


def _variant_row(row: dict[str, Any]) -> VariantRow:
    won, harmed = (f"{percent(row[name])} / {percent(row[f'main_{name}'])}" for name in ("win_rate", "harm_rate"))
    return VariantRow(
        what=row["variant"] if row["of"] == CELL_KIND else f"{row['variant']}, of {row['of']}s",
        model=row["model"],
        regime=row["regime"],
        n_pairs=row["n_pairs"],
        delta=pp(row["delta_pp"]),
        of_main=pp(row["main_delta_pp"]),
        difference=_with_interval(row, "minus_main_pp"),
        won=won,
        harmed=harmed,
        weights=_both(row, "n_weights"),
        seconds=_both(row, "train_s"),
    )


def _both(row: dict[str, Any], name: str) -> str:
    return " / ".join("not known" if (value := row[key]) is None else f"{value:,.0f}" for key in (name, f"main_{name}"))
