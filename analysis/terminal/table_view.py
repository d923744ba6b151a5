"""A table as the terminal shows it: columns, headings, digits."""

from __future__ import annotations

import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from transfergrid.analysis.tables.facts import missing_reasons
from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.terminal.plain_table import plain_table
from transfergrid.wording import count

SHOWN_ROWS = 40
"""Rows of a table that are printed; all of them are in its files."""
_TITLES = {
    "n_seeds": "seeds",
    "base_score": "base",
    "mean_pp_low": "low",
    "mean_pp_high": "high",
    "share_low": "low",
    "share_high": "high",
    "win_rate_true": "true win",
    "harm_rate_true": "true harm",
    "win_rate": "seen win",
    "harm_rate": "seen harm",
    "harm_rate_significant": "sig. harm",
    "variance_pp2": "pp2",
    "correlation": "corr.",
    "n_sources_undefined": "undefined",
    "lower_quartile": "quartile low",
    "upper_quartile": "quartile high",
    "syntax_knn_distance": "syntax distance",
    "inventory_knn_distance": "inventory distance",
    "mean_tau_b": "tau-b",
}
"""Short headings; the others are the column's name."""
_TWO_DIGITS = ("_pp", "_pp_low", "_pp_high", "_rate", "_rate_true", "_rate_significant")
"""Ends of columns whose third digit is noise."""


def shown_columns(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of a table that fit a terminal; source, target, group and ranks become one each."""
    wanted = all_tables()[name].shown.split() or table.columns
    for side in ("source", "target"):
        if f"{side}_task" in table.columns and side in wanted:
            cell = pl.concat_str(f"{side}_task", f"{side}_language", separator="-")
            table = table.with_columns(cell.alias(side))
    if "ranks" in wanted:
        table = table.with_columns(ranks=pl.concat_str("rank_low", "rank_high", separator="-"))
    if "by" in table.columns and "group" in wanted:
        named = pl.concat_str(pl.col("by").str.replace_all("_", " "), "group", separator=" ")
        table = table.with_columns(group=pl.when(pl.col("by") == "all").then("group").otherwise(named))
    if "unit" in wanted:
        table = table.with_columns(pl.col("unit").str.replace_all("_", " "))
    return table.select(column for column in wanted if column in table.columns)


def table_view(name: str, table: pl.DataFrame) -> RenderableType:
    """Return one table, its first rows and main columns; says how much is left out.

    A model or seed that is the same in all rows stands in the title.
    """
    shown = shown_columns(name, table)
    same = [column for column in ("model", "seed") if column in shown.columns and shown[column].n_unique() == 1]
    title = "".join(f", {column} {shown[column][0]}" for column in same)
    shown = shown.drop(same)
    view = plain_table(Text(f"{name}: {table.height} row{'' if table.height == 1 else 's'}{title}"), style="bold")
    for column, dtype in shown.schema.items():
        heading = _TITLES.get(column, column.replace("_", " "))
        heading = heading.replace(" ", "\n") if dtype.is_numeric() else heading
        view.add_column(
            heading,
            justify="right" if dtype.is_numeric() else "left",
            overflow="fold",
            no_wrap=dtype.is_numeric(),
            min_width=max(map(len, [*heading.split(), *_words(shown[column])])),
        )
    for row in shown.head(SHOWN_ROWS).iter_rows(named=True):
        view.add_row(*(Text(_plain(value, column)) for column, value in row.items()))
    notes = []
    if table.height > SHOWN_ROWS:
        notes.append(f"{table.height - SHOWN_ROWS} more rows; all rows and columns: --csv, --json or the written files")
    if "reason" in table.columns and "reason" not in shown.columns:
        notes += reasons_view(table)
    return Group(view, Text("\n".join(notes)))


def _words(column: pl.Series) -> list[str]:
    """Return the words of a column that must not be broken; names of models and cells may be."""
    if column.name not in ("role", "unit", "regime"):
        return []
    return [word for value in column.head(SHOWN_ROWS).unique().drop_nulls() for word in str(value).split()]


def reasons_view(table: pl.DataFrame, limit: int = 5) -> list[str]:
    """Return the most frequent reasons of a table's rows, a line each."""
    return [f"{count(number, 'row')}: {reason}" for reason, number in missing_reasons(table, limit)]


def _plain(value: object, column: str) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if column.endswith(_TWO_DIGITS):
        return f"{value:.2f}"
    return f"{value:.3f}" if 0.01 <= abs(value) < 10 else f"{value:.3g}"
