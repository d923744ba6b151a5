"""The transfer table of one seed at a time."""

from __future__ import annotations

import numpy as np
import polars as pl

from transfergrid.analysis.graded.columns import NUMBERS
from transfergrid.analysis.records import EVERY_KEY, IS_SINGLE, ROW, TARGET
from transfergrid.analysis.statistics.significance import benjamini_hochberg, mcnemar_exact_p
from transfergrid.config.settings import GridConfig
from transfergrid.store.scores import with_regime

NO_SCORES = "no scores in the store"
NO_BASELINE = "no baseline scores for this target"


def transfer_by_seed(
    counts: pl.DataFrame, config: GridConfig | None, floor: pl.DataFrame, sources: pl.DataFrame
) -> pl.DataFrame:
    """Return one row per (model, seed, source, target), with what the average over seeds needs.

    Args:
        counts: One row per (model, seed, source, target) with item rows.
        config: Says which seeds and cells are expected; None: those of the same model.
        floor: The noise floor.
        sources: What is known of every source in ``counts`` and in ``config``, see `read_sources`.
    """
    frame = _expect(counts, config, sources.filter(IS_SINGLE).select("source"))
    frame = with_regime(frame.join(sources, on="source", how="left", validate="m:1"))
    n = pl.col("n_items")
    change, squares = pl.col("change"), pl.col("squares")
    frame = frame.with_columns(
        n_none=n - pl.col("n_both") - pl.col("n_only_base") - pl.col("n_only_adapter"),
        delta_acc_pp=100 * (pl.col("adapter_acc") - pl.col("base_acc")),
        delta_acc_norm_pp=100 * (pl.col("adapter_acc_norm") - pl.col("base_acc_norm")),
        delta_pp=pl.when(n > 0).then(100 * change / n),
        se_pp=pl.when(n > 1).then(100 * ((squares - change**2 / n) / (n - 1) / n).sqrt()),
        reason=pl.when(n.is_null())
        .then(pl.lit(NO_SCORES))
        .when((n == 0) & ~pl.col("has_base"))
        .then(pl.lit(NO_BASELINE))
        .when(n == 0)
        .then(pl.concat_str(pl.lit("no item scored: "), pl.col("unscored_reason").fill_null("unknown"))),
    )
    frame = frame.with_columns(graded_reason=pl.coalesce("reason", "graded_reason"))
    frame = _with_mcnemar(frame).join(
        floor.select("model", *TARGET, n_flips_noise_floor="n_flips"),
        on=["model", *TARGET],
        how="left",
        validate="m:1",
    )
    return frame.sort(*ROW, "source", nulls_last=True)


def no_counts() -> pl.DataFrame:
    """Return the counts of a store without item rows."""
    text = (*EVERY_KEY, "primary_metric", "unscored_reason")
    counts = ("n_items", "n_unscored", "n_both", "n_only_base", "n_only_adapter", "n_ties", "n_ties_base", "seed")
    scores = [f"{side}_{score}" for side in ("base", "adapter") for score in ("score", "acc", "acc_norm")]
    return pl.DataFrame(
        schema={
            **dict.fromkeys(text, pl.String),
            **dict.fromkeys(counts, pl.Int64),
            **dict.fromkeys((*scores, "change", "squares"), pl.Float64),
            "has_base": pl.Boolean,
            **NUMBERS,
        }
    )


def _expect(frame: pl.DataFrame, config: GridConfig | None, single: pl.DataFrame) -> pl.DataFrame:
    """Add a row with nulls for every (model, seed, source, target) that should be there and is not."""
    targets = frame.select(TARGET).unique()
    of_single = frame.join(single, on="source", how="semi")
    seeds = of_single.select("model", "seed").unique()
    configured = {model.name for model in config.models} if config is not None else set()
    wanted = seeds.join(of_single.select("source").unique(), how="cross").join(targets, how="cross")
    if config is not None:
        cells = pl.DataFrame([(cell.task, cell.language) for cell in config.grid.cells], schema=[*TARGET], orient="row")
        trained = pl.DataFrame(
            {"source": [cell.name for cell in config.grid.source_cells]}, schema={"source": pl.String}
        )
        ours = seeds.filter(pl.col("model").is_in(configured)).select("model").unique()
        planned = (
            ours.join(pl.DataFrame({"seed": list(config.seeds)}), how="cross")
            .join(trained, how="cross")
            .join(cells, how="cross")
        )
        wanted = pl.concat([wanted.filter(~pl.col("model").is_in(configured)), planned])
    others = frame.join(single, on="source", how="anti").select("model", "seed", "source").unique()
    wanted = pl.concat([wanted, others.join(targets, how="cross")])
    return wanted.join(frame, on=["model", "seed", "source", *TARGET], how="full", coalesce=True, nulls_equal=True)


def _with_mcnemar(frame: pl.DataFrame) -> pl.DataFrame:
    counted = frame.select(((pl.col("n_items") > 0) & pl.col("n_both").is_not_null()).fill_null(False))
    usable = counted.to_series().to_numpy()
    p_values = np.full(frame.height, np.nan)
    counts = frame.filter(pl.Series(usable))
    p_values[usable] = mcnemar_exact_p(counts["n_only_base"].to_numpy(), counts["n_only_adapter"].to_numpy())
    return with_q(frame.with_columns(mcnemar_p=pl.Series(p_values)), "mcnemar_p", "mcnemar_q")


def with_q(frame: pl.DataFrame, p_column: str, q_column: str) -> pl.DataFrame:
    """Add Benjamini-Hochberg q, single-cell sources being one family and all other kinds another; null: no p."""
    p_values = frame[p_column].fill_null(np.nan).to_numpy()
    q_values = np.full(frame.height, np.nan)
    single = frame.select(IS_SINGLE).to_series().to_numpy()
    for family in (single, ~single):
        q_values[family] = benjamini_hochberg(p_values[family])
    found = {p_column: p_values, q_column: q_values}
    return frame.with_columns(pl.Series(name, each).fill_nan(None) for name, each in found.items())
