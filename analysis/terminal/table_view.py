"""A table as the terminal shows it: columns, headings, digits."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from transfergrid.analysis.records import cell_name
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
_LEAST = 5
"""Characters that a text keeps where a terminal is narrow; numbers keep all of theirs, and reasons are folded."""
_TWO_DIGITS = ("_pp", "_pp_low", "_pp_high", "_rate", "_rate_true", "_rate_significant")
"""Ends of columns whose third digit is noise."""


def shown_columns(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of a table that fit a terminal; source, target, group and ranks become one each."""
    wanted = all_tables()[name].shown.split() or table.columns
    for side in ("source", "target"):
        if f"{side}_task" in table.columns and side in wanted:
            table = table.with_columns(cell_name(side).alias(side))
    if "ranks" in wanted:
        table = table.with_columns(ranks=pl.concat_str("rank_low", "rank_high", separator="-"))
    if "by" in table.columns and "group" in wanted:
        named = pl.concat_str(pl.col("by").str.replace_all("_", " "), "group", separator=" ")
        table = table.with_columns(group=pl.when(pl.col("by") == "all").then("group").otherwise(named))
    if "unit" in wanted:
        table = table.with_columns(pl.col("unit").str.replace_all("_", " "))
    return table.select(column for column in wanted if column in table.columns)


@dataclass(frozen=True, slots=True)
class TableView:
    """One table, its first rows and main columns; says how much is left out.

    A model or seed that is the same in all rows stands in the title, several models as lines between the rows. Names
    that do not fit lose their middle, so that a row is a line.
    """

    name: str
    table: pl.DataFrame

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render for a width."""
        shown = shown_columns(self.name, self.table)
        same = [column for column in ("model", "seed") if column in shown.columns and shown[column].n_unique() == 1]
        title = "".join(f", {column} {shown[column][0]}" for column in same)
        shown = shown.drop(same).head(SHOWN_ROWS)
        rows = count(self.table.height, "row").replace(",", "")
        view = plain_table(Text(f"{self.name}: {rows}{title}"), style="bold")
        models = shown["model"].to_list() if {"model", "source"} <= set(shown.columns) else []
        shown = shown.drop("model") if models else shown
        cells = {column: [_plain(value, column) for value in shown[column]] for column in shown.columns}
        headings = {name: _TITLES.get(name, name.replace("_", " ")).replace(" ", "\n") for name in shown.columns}
        place_of_model = list(cells).index("source") if models else 0
        wide = {**cells, "source": [*cells["source"], *map(str, models)]} if models else cells
        texts = [not dtype.is_numeric() and column != "reason" for column, dtype in shown.schema.items()]
        room = _widths(wide, headings, texts, options.max_width)
        for column, dtype in shown.schema.items():
            is_number = dtype.is_numeric()
            view.add_column(headings[column], justify="right" if is_number else "left", no_wrap=column != "reason")
        for place in range(shown.height):
            if models and (place == 0 or models[place] != models[place - 1]):
                name = Text(_cut(str(models[place]), room[place_of_model]), style="bold")
                view.add_row(*[""] * place_of_model, name)
            view.add_row(*(Text(_cut(cells[column][place], room[number])) for number, column in enumerate(cells)))
        yield view
        yield Text("\n".join(self._notes(shown)))

    def _notes(self, shown: pl.DataFrame) -> list[str]:
        notes = [approximate] if (approximate := all_tables()[self.name].approximate) else []
        if self.table.height > SHOWN_ROWS:
            left = self.table.height - SHOWN_ROWS
            notes.append(f"{left} more rows; all rows and columns: --csv, --json or the written files")
        if "reason" in self.table.columns and "reason" not in shown.columns:
            notes += reasons_view(self.table)
        return notes


def _widths(cells: dict[str, list[str]], headings: dict[str, str], texts: list[bool], room: int) -> list[int]:
    """Return how wide each column may be: texts give way, the longest first, down to `_LEAST` characters."""
    widths = [max(map(len, [*values, *headings[column].split("\n")])) for column, values in cells.items()]
    names = [place for place, is_text in enumerate(texts) if is_text]
    gaps = 2 * len(widths)
    while names and sum(widths) + gaps > room and max(widths[place] for place in names) > _LEAST:
        widths[max(names, key=lambda place: widths[place])] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    """Return a name without its middle where it is too long; its ends tell names apart."""
    if len(text) <= width:
        return text
    end = max((width - 1) // 2, 1)
    return f"{text[: width - 1 - end]}…{text[-end:]}"


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
