"""Columns of graded transfer by seed."""

from __future__ import annotations

import polars as pl

NUMBERS = {
    "graded_pp": pl.Float64,
    "graded_se_pp": pl.Float64,
    "graded_squares": pl.Float64,
    "graded_n_items": pl.Int64,
    "temperature_ratio": pl.Float64,
    "register_nats_per_char": pl.Float64,
    "others_nats_per_char": pl.Float64,
    "graded_p": pl.Float64,
    "graded_p_below_0": pl.Float64,
    "graded_pp_low": pl.Float64,
    "graded_pp_high": pl.Float64,
    "graded_reason": pl.String,
}
"""Columns of one (model, seed, source, target); p and interval are of sources with one seed."""
OF_SEEDS = ("graded_squares", "graded_n_items", "graded_p", "graded_p_below_0", "graded_pp_low", "graded_pp_high")
"""Those that only the average over seeds needs."""
