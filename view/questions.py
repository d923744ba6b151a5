"""How sure a model is of its choices, from their log-likelihoods."""

from __future__ import annotations

import polars as pl

from transfergrid.benchmarks.metrics import METRICS

_SIDES = {"base": "loglikelihoods_nats", "source": "loglikelihoods_nats_source"}
_BY_LENGTH = pl.col("primary_metric").is_in([name for name, metric in METRICS.items() if metric.length is not None])


def with_probabilities(paired: pl.DataFrame) -> pl.DataFrame:
    """Add picks and probabilities of the choices under base and source, and by how much the gold's changed.

    ``p_base`` and ``p_source`` share 1 among an item's choices: a softmax of what the metric compares, which for
    acc_norm is the log-likelihood per character times the item's mean characters. ``pick_base`` and ``pick_source`` are
    the best by it; ``gold_change`` is in -1..1. All are null where an item was not scored or has no choices.
    """
    chars = pl.col("choice_chars")
    frame = paired
    for side, name in _SIDES.items():
        per_char = pl.col(name) / chars * chars.list.mean()
        compared = pl.when(_BY_LENGTH).then(per_char).otherwise(pl.col(name))
        above = pl.element() - pl.element().max()
        frame = frame.with_columns(
            compared.list.arg_max().alias(f"pick_{side}"),
            compared.list.eval(above.exp() / above.exp().sum()).alias(f"p_{side}"),
        )
    gold = pl.col("gold").cast(pl.Int64)
    change = pl.col("p_source").list.get(gold, null_on_oob=True) - pl.col("p_base").list.get(gold, null_on_oob=True)
    return frame.with_columns(gold_change=change)
