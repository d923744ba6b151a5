"""The record of one scored item: what the engine stores and the analysis reads."""

from __future__ import annotations

import polars as pl

SCORE_SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "seed": pl.Int64(),  # null: the base model, which has no training seed
        "source_task": pl.String(),  # null: the base model
        "source_language": pl.String(),  # null: the base model
        "target_task": pl.String(),
        "target_language": pl.String(),
        "item_id": pl.String(),
        "gold": pl.Int16(),
        "pred": pl.Int16(),  # highest log-likelihood; null: not scored
        "pred_norm": pl.Int16(),  # highest log-likelihood per character; null: not scored
        "loglikelihoods_nats": pl.List(pl.Float64()),  # one per choice; null: not scored
        "choice_chars": pl.List(pl.Int32()),
        "n_truncated_tokens": pl.Int32(),
        "primary_metric": pl.String(),  # "acc" or "acc_norm": the metric that is this target's score
        "unscored_reason": pl.String(),  # null: scored
        "run_key": pl.String(),
    }
)
"""Columns of the results store, one row per (model, seed, source, target, item)."""
