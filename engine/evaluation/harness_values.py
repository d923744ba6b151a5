"""Numbers of lm-evaluation-harness, such as perplexities, from what the store keeps of the items that it counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from transfergrid.benchmarks.metrics import AGGREGATIONS
from transfergrid.benchmarks.spec import HARNESS_METRICS

SHOWN_VALUES = 40

_SOURCE = ("model", "target_task", "target_language", "source", "seed")
_SCHEMA = {**dict.fromkeys(_SOURCE, pl.String), "seed": pl.Int64, "metric": pl.String, "n_items": pl.Int64}
HARNESS_SCHEMA = pl.Schema({**_SCHEMA, "score": pl.Float64})
"""One row per (source, target, metric of the harness)."""


def harness_values(rows: pl.LazyFrame) -> pl.DataFrame:
    """Return what the harness would print of every source on every target, over the items that were scored.

    Args:
        rows: Item rows in SCORE_SCHEMA; those whose tasks have nothing but a mean are left out, as their score is it.
    """
    is_counted = pl.col("primary_metric").is_in(HARNESS_METRICS) & pl.col("output").str.starts_with("{")
    told = rows.filter(is_counted).select(*_SOURCE, "output").collect()
    groups = told.group_by(_SOURCE, maintain_order=True)
    found = [(*key, *each) for key, part in groups for each in _values(part["output"])]
    order = [*_SOURCE[:3], pl.col("seed"), "source"]
    return pl.DataFrame(found, schema=HARNESS_SCHEMA, orient="row").sort(order, nulls_last=False, maintain_order=True)


def _values(outputs: pl.Series) -> Iterator[tuple[str, int, float]]:
    """Yield metric, number of items and value."""
    adds: dict[tuple[str, str], list[Any]] = {}
    for output in outputs:
        for metric, (combine, value) in json.loads(output)["results"].items():
            adds.setdefault((metric, combine), []).append(value)
    for (metric, combine), values in adds.items():
        yield metric, len(values), AGGREGATIONS[combine].of_all(values)


def harness_table(values: pl.DataFrame) -> Table:
    """Return the first rows as a table; the caption says how many there are."""
    hidden = values.height - SHOWN_VALUES
    caption = f"and {hidden:,} more; all with --json" if hidden > 0 else None
    table = Table(title="Metrics of lm-evaluation-harness", caption=caption)
    for name in ("model", "source", "target", "metric", "items", "value"):
        table.add_column(name, justify="right" if name in ("items", "value") else "left")
    for row in values.head(SHOWN_VALUES).iter_rows(named=True):
        source = row["source"] if row["seed"] is None else f"{row['source']} (seed {row['seed']})"
        cell = f"{row['target_task']}-{row['target_language']}"
        numbers = f"{row['n_items']:,}", f"{row['score']:.4f}"
        table.add_row(*map(Text, (row["model"], source, cell, row["metric"], *numbers)))
    return table
