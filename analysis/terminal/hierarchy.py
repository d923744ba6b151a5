"""Two views for a terminal: language x language matrices in colour, and rankings with their rank intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from transfergrid.analysis.tables.roles import ROLES, ROLES_TABLE, UNIT_REGIMES
from transfergrid.analysis.terminal.plain_table import plain_table

_PLURALS = {"language": "languages", "language_family": "language families", "task": "tasks", "cell": "cells"}
_ENDS = 5
"""Units shown from each end of a ranking that is longer than `_LONG`."""
_LONG = 15
_BAR_WIDTH = 14


def hierarchy_rows(roles: pl.DataFrame) -> pl.DataFrame:
    """Return the rankings over all models, best first within each."""
    order = {unit: place for place, unit in enumerate(UNIT_REGIMES)}
    ranked = roles.filter(pl.col("models_by") == "all")
    return ranked.sort(
        pl.col("unit").replace_strict(order, return_dtype=pl.Int64), "role", "regime", "rank", "name"
    ).drop("models_by", "models")


def hierarchy_view(roles: pl.DataFrame) -> RenderableType:
    """Return donors and recipients of every unit in the study's regime for it, with a bar over their rank interval."""
    parts: list[RenderableType] = []
    for unit, regimes in UNIT_REGIMES.items():
        for role in ROLES:
            part = roles.filter(role=role, unit=unit, regime=regimes[0], models_by="all").sort("rank", "name")
            if part.height:
                parts.append(_ranking(part, f"{_PLURALS[unit]} as {role}s, {regimes[0]}"))
    if not parts:
        return Text("hierarchy: no transfer rows, so there is nothing to rank")
    note = (
        "score: mean over models of the mean delta; +/-: standard error across models; true harm %: pairs whose "
        "true delta is harm; bar: ranks that a unit may have, all units together, o the rank. Where bars overlap the "
        f"order is not settled. {ROLES_TABLE.approximate}"
    )
    return Group(*parts, Text(note))


def _ranking(part: pl.DataFrame, title: str) -> RenderableType:
    table = plain_table(title, style="bold")
    for name in ("rank", "name", "score pp", "+/-", "true harm %", "ranks", "", "label"):
        table.add_column(name, justify="left" if name in ("name", "", "label") else "right", no_wrap=name != "name")
    rows = list(part.iter_rows(named=True))
    long = len(rows) > _LONG
    for row in rows[:_ENDS] if long else rows:
        table.add_row(*_ranking_cells(row, len(rows)))
    if long:
        table.add_row("...", f"{len(rows) - 2 * _ENDS} more")
        for row in rows[-_ENDS:]:
            table.add_row(*_ranking_cells(row, len(rows)))
    reasons = part["reason"].drop_nulls().unique().sort().to_list()
    return Group(table, Text("\n".join([*reasons, ""])))


def _ranking_cells(row: Mapping[str, Any], n_ranked: int) -> list[RenderableType]:
    error = "-" if row["se_pp"] is None else f"{row['se_pp']:.2f}"
    known = row["rank_low"] is not None
    return [
        str(row["rank"]),
        Text(row["name"]),
        f"{row['score_pp']:+.2f}",
        error,
        "-" if row["harm_rate_true"] is None else f"{100 * row['harm_rate_true']:.1f}",
        f"{row['rank_low']}-{row['rank_high']}" if known else "-",
        rank_bar(row["rank"], row["rank_low"], row["rank_high"], n_ranked=n_ranked) if known else "",
        row["label"] or "",
    ]


def rank_bar(rank: int, low: int, high: int, *, n_ranked: int) -> str:
    """Return a line of text with a bar from the lowest to the highest rank and ``o`` at the rank itself.

    One character per rank, fewer where there are more ranks than the line is long.
    """
    width = min(n_ranked, _BAR_WIDTH)

    def place(each: int) -> int:
        return round((each - 1) * (width - 1) / max(n_ranked - 1, 1))

    line = [" "] * width
    line[place(low) : place(high) + 1] = "-" * (place(high) + 1 - place(low))
    line[place(rank)] = "o"
    return "".join(line)
