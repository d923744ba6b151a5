"""Rows of a table as a chart takes them, and a select above a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

_DIGITS = 4


def chart_rows(table: pl.DataFrame, columns: Sequence[str]) -> alt.InlineData:
    """Return some columns of a table without their nulls; floats have four digits."""
    floats = [name for name in columns if table[name].dtype.is_float()]
    rows = table.select(columns).with_columns(pl.col(floats).round(_DIGITS)).iter_rows(named=True)
    return alt.InlineData(values=[{name: value for name, value in row.items() if value is not None} for row in rows])


def select(
    name: str, label: str, options: Sequence[Any], labels: Sequence[str] | None = None, *, value: Any = None
) -> alt.Parameter:
    """Return a parameter that the reader sets; it starts with ``value``, by default the first option."""
    shown = list(labels if labels is not None else options)
    bind = alt.binding_select(options=list(options), labels=shown, name=label)
    return alt.param(name=name, value=options[0] if value is None else value, bind=bind)
