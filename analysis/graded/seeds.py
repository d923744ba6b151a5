"""Graded transfer averaged over seeds: the same standard errors as of accuracy, and the flips' test of one seed."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy import special

from transfergrid.analysis.records import EVERY_KEY
from transfergrid.analysis.statistics.pair_noise import RULE_OF_THREE

SIGN_FLIP = "studentised sign flips"


def graded_as_delta(by_seed: pl.DataFrame) -> pl.DataFrame:
    """Return the table by seed with graded transfer in the columns of the delta, for `average_seeds`."""
    return by_seed.with_columns(
        delta_pp="graded_pp",
        n_items="graded_n_items",
        squares="graded_squares",
        mcnemar_p=pl.lit(None, dtype=pl.Float64),
        reason="graded_reason",
    )


def graded_columns(averaged: pl.DataFrame, by_seed: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """Return graded transfer of every (model, source, target) with standard error, test and interval.

    One seed: by sign flips. Several: t with the moderated standard error over items and seeds; where nothing changed
    in any item, 3 of them may (rule of three).

    Args:
        averaged: `average_seeds` of `graded_as_delta`.
        by_seed: The table by seed.
        confidence: Level of the intervals.
    """
    first = by_seed.group_by(EVERY_KEY, maintain_order=True).agg(
        pl.col("graded_p", "graded_p_below_0", "graded_pp_low", "graded_pp_high").drop_nulls().first(),
        pl.col("temperature_ratio", "register_nats_per_char", "others_nats_per_char").mean(),
    )
    joined = averaged.join(first, on=list(EVERY_KEY), how="left", validate="1:1")
    mean, se, df, n = (
        joined[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("delta_pp", "se_pp", "df", "n_items")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(se > 0, special.stdtr(df, -mean / se), np.where(se == 0, 0.5, np.nan))
        width = np.where(se > 0, special.stdtrit(df, 0.5 + confidence / 2) * se, 100 * RULE_OF_THREE / n)
    width = np.where(np.isfinite(se), width, np.nan)
    several = pl.col("n_seeds") > 1
    by_t = {"graded_p": joined["p_value"], "graded_p_below_0": below, "graded_pp_low": mean - width}
    by_t["graded_pp_high"] = mean + width
    return joined.select(
        *EVERY_KEY,
        graded_pp="delta_pp",
        graded_se_pp="se_pp",
        **{
            name: pl.when(several).then(pl.Series(values).fill_nan(None)).otherwise(name)
            for name, values in by_t.items()
        },
        graded_p_method=pl.when(several)
        .then("p_method")
        .when(pl.col("graded_p").is_not_null())
        .then(pl.lit(SIGN_FLIP)),
        temperature_ratio="temperature_ratio",
        register_nats_per_char="register_nats_per_char",
        others_nats_per_char="others_nats_per_char",
        graded_reason="reason",
    )
