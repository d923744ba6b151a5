"""How sure a model is of its choices, from their log-likelihoods, and what its question is."""

from __future__ import annotations

import os
from collections.abc import Mapping

import polars as pl

from transfergrid.benchmarks.items import Item

_COLUMNS = ("loglikelihoods_nats", "loglikelihoods_nats_source")


def with_probabilities(paired: pl.DataFrame) -> pl.DataFrame:
    """Add probabilities of the choices under base and source, and by how much the gold's changed.

    ``p_base`` and ``p_source`` share 1 among an item's choices (softmax of the log-likelihoods); ``gold_change`` is in
    -1..1. All are null where an item was not scored or has no choices.
    """
    shares = paired.with_columns(
        pl.col(name)
        .list.eval((pl.element() - pl.element().max()).exp() / (pl.element() - pl.element().max()).exp().sum())
        .alias(to)
        for name, to in zip(_COLUMNS, ("p_base", "p_source"), strict=True)
    )
    gold = pl.col("gold").cast(pl.Int64)
    change = pl.col("p_source").list.get(gold, null_on_oob=True) - pl.col("p_base").list.get(gold, null_on_oob=True)
    return shares.with_columns(gold_change=change)


def split_shared(context: str, items: Mapping[str, Item]) -> tuple[str, str]:
    """Return the lines that every item of a cell starts with, such as worked examples, and the rest of a context."""
    contexts = [item.context for item in items.values()]
    shared = os.path.commonprefix(contexts) if len(items) > 1 else ""  # noqa: RUF071 characters are meant, not paths
    end = shared.rfind("\n") + 1
    return context[:end], context[end:]
