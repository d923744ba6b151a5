"""Sources for one target, ranked by a shrunken estimate of their delta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import special

from transfergrid.analysis.graded.groups import graded_rows
from transfergrid.analysis.records import ALL_TRANSFER, PAIR, TARGET, ItemBlock, at_target, cell_name, in_regime
from transfergrid.analysis.statistics.pair_noise import PairNoise, independent_noise, measure_noise
from transfergrid.analysis.statistics.reml import FitError
from transfergrid.analysis.statistics.shrinkage import shrink
from transfergrid.analysis.tables.table import PAIR_COLUMNS, REASON, REGIME, Column, Table, TableInputs
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Cell, Regime, UserError

HIGH_HARM = 0.5
"""``--avoid`` lists sources whose probability of harm is above this."""
LIKELY_HELP = 0.5
"""Where no source of a target has a probability of help above this, nothing is recommended."""
MATCHED = "the target's own cell: its delta as measured, not part of the model"
NO_DATA = "no data: this source was not scored on the target"
NO_INTERVAL = "no interval: the table has no standard errors"
NOTHING_SHARED = (
    "without items, noise that all sources of a target share (its baseline's) counts as the target's effect"
)
GRADED = {
    "graded_estimate_pp": "estimate_pp",
    "graded_low_pp": "low_pp",
    "graded_high_pp": "high_pp",
    "graded_p_help": "p_help",
}
"""Columns of graded transfer by the names that `estimate_pairs` gives them."""
RECOMMENDATION_SCHEMA = {
    "source_task": pl.String,
    "source_language": pl.String,
    "regime": pl.String,
    "estimate_pp": pl.Float64,
    "low_pp": pl.Float64,
    "high_pp": pl.Float64,
    "p_harm": pl.Float64,
    "p_help": pl.Float64,
    "observed_pp": pl.Float64,
    **dict.fromkeys(GRADED, pl.Float64),
    "n_models": pl.Int64,
    "reason": pl.String,
}


class _Pairs(NamedTuple):
    frame: pl.DataFrame
    """One row per (source, target) with ``mean_pp`` and ``n_models``."""
    noise: PairNoise
    between_models: float
    """Variance of a pair's true delta between models, their overall levels included."""
    note: str
    """How the noise was measured."""


def choose_rows(rows: pl.DataFrame, target: Cell, model: str | None) -> pl.DataFrame:
    """Return the rows of one model, or of all.

    Raises:
        UserError: If there are none, or none for the target.
    """
    if rows.is_empty():
        raise UserError("the run has no scores and no imported table; run 'grid eval' or 'grid import' first")
    models = rows["model"].unique().sort().to_list()
    if model is not None and model not in models:
        raise UserError(f"model {model!r} is not in the run; expected one of {models}")
    chosen = rows if model is None else rows.filter(pl.col("model") == model)
    if not chosen.filter(at_target(target) & pl.col("delta_pp").is_not_null()).height:
        cells = chosen.select(cell_name("target").unique().sort())
        raise UserError(f"no data for target {target.name!r}; expected one of {cells.to_series().to_list()}")
    return chosen


def noisy_pairs(rows: pl.DataFrame, items: Sequence[ItemBlock]) -> _Pairs:
    """Return the mean delta of every pair with what is known of its noise."""
    keys = [*PAIR, "regime"]
    models_level = pl.col("delta_pp").mean().over("model")
    frame = (
        rows.with_columns(within_model=pl.col("delta_pp") - models_level)
        .group_by(keys, maintain_order=True)
        .agg(
            mean_pp=pl.col("delta_pp").mean(),
            n_models=pl.len().cast(pl.Int64),
            spread=pl.col("delta_pp").var(),
            spread_within=pl.col("within_model").var(),
        )
        .sort(keys)
    )
    n_models = rows["model"].n_unique()
    noise, note = _noise(rows, frame, items)
    if n_models < 2:
        return _Pairs(frame, noise, 0.0, note)
    about = "; intervals are about the mean of these models, probabilities about one more model like them"
    measured = float((rows["se_pp"] ** 2).mean() or 0.0)  # type: ignore[arg-type]
    between = float(np.nan_to_num(_pooled(frame, "spread")))
    return _Pairs(frame, noise, max(between - measured, 0.0) * (1 + 1 / n_models), note + about)


def _noise(rows: pl.DataFrame, frame: pl.DataFrame, items: Sequence[ItemBlock]) -> tuple[PairNoise, str]:
    noise = measure_noise(rows, frame, items)
    several = rows["model"].n_unique() > 1
    if np.isfinite(noise.own).any():
        whose = "these models'" if several else "this model's"
        note = f"noise of a pair: standard errors of {whose} deltas"
        return noise, note if noise.from_items.all() else f"{note}; {NOTHING_SHARED}"
    pooled = _pooled(frame, "spread_within")
    if several and pooled > 0:
        own = pooled / frame["n_models"].to_numpy()
        note = f"noise of a pair: spread over models, their overall levels taken off; {NOTHING_SHARED}"
        return independent_noise(own, frame.select(TARGET).n_unique()), note
    return noise, "the table has no standard errors: all of a pair's own deviation counts as noise"


def _pooled(frame: pl.DataFrame, spread: str) -> float:
    """Return the mean variance over models; NaN where no pair has two models."""
    found = frame.filter(pl.col(spread).is_not_null())
    return float(np.average(found[spread], weights=found["n_models"] - 1)) if found.height else float("nan")


def estimate_pairs(pairs: _Pairs, settings: AnalysisConfig) -> pl.DataFrame:
    """Return one row per pair: shrunken estimate, interval, probability of harm."""
    frame = pairs.frame
    observed = frame["mean_pp"].to_numpy()
    reason = None
    try:
        mean, variance, *_ = shrink(frame, observed, pairs.noise, seed=settings.seed)
    except FitError as error:
        mean, variance = observed, pairs.noise.variance
        reason = f"not shrunken: {error}"
    z = float(special.ndtri(1 - (1 - settings.confidence) / 2))
    spread = np.sqrt(variance + pairs.between_models)
    unknown = NO_INTERVAL if reason is None else f"{reason}; {NO_INTERVAL}"
    return frame.select(*PAIR, "regime", "n_models", observed_pp="mean_pp").with_columns(
        estimate_pp=pl.Series(mean),
        low_pp=pl.Series(mean - z * np.sqrt(variance)).fill_nan(None),
        high_pp=pl.Series(mean + z * np.sqrt(variance)).fill_nan(None),
        p_harm=pl.Series(special.ndtr((settings.harm_threshold_pp - mean) / spread)).fill_nan(None),
        p_help=pl.Series(special.ndtr(mean / spread)).fill_nan(None),
        reason=pl.when(pl.Series(np.isnan(variance))).then(pl.lit(unknown)).otherwise(pl.lit(reason)),
    )


def with_graded_estimates(
    estimates: pl.DataFrame, rows: pl.DataFrame, items: Sequence[ItemBlock], settings: AnalysisConfig
) -> pl.DataFrame:
    """Add the same estimates of graded transfer, null for pairs that have none.

    Args:
        estimates: One row per pair, see `estimate_pairs`.
        rows: Transfer rows of the chosen models and regimes.
        items: What items add to graded transfer.
        settings: Level and seed.
    """
    there = graded_rows(rows)
    if there.is_empty():
        return estimates.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in GRADED)
    graded = estimate_pairs(noisy_pairs(there, items), settings).select(
        *PAIR, *(pl.col(old).alias(new) for new, old in GRADED.items())
    )
    return estimates.join(graded, on=list(PAIR), how="left", validate="1:1")


def with_unestimated(estimates: pl.DataFrame, rows: pl.DataFrame, target: Cell) -> pl.DataFrame:
    """Add the matched cell and the sources without data, then sort best first."""
    sources = rows.select("source_task", "source_language").unique()
    own = (
        rows.filter(at_target(target) & (pl.col("regime") == Regime.MT_ML.value) & pl.col("delta_pp").is_not_null())
        .group_by("source_task", "source_language", "regime", maintain_order=True)
        .agg(observed_pp=pl.col("delta_pp").mean(), n_models=pl.len().cast(pl.Int64))
        .with_columns(reason=pl.lit(MATCHED))
    )
    found = pl.concat([estimates.filter(at_target(target)).drop(TARGET), own], how="diagonal")
    missing = sources.join(found, on=["source_task", "source_language"], how="anti").with_columns(
        reason=pl.lit(NO_DATA), n_models=pl.lit(0, dtype=pl.Int64)
    )
    everything = pl.concat([pl.DataFrame(schema=RECOMMENDATION_SCHEMA), found, missing], how="diagonal_relaxed")
    return everything.select(list(RECOMMENDATION_SCHEMA)).sort(
        "estimate_pp", "source_task", "source_language", descending=[True, False, False], nulls_last=True
    )


_COLUMNS = (
    *PAIR_COLUMNS,
    REGIME,
    Column("n_models", pl.Int64, "models", "Models with a delta."),
    Column("observed_pp", pl.Float64, "pp", "Mean of the models' deltas as measured."),
    Column("estimate_pp", pl.Float64, "pp", "The same, drawn towards what source and target do elsewhere."),
    Column("low_pp", pl.Float64, "pp", "Lower end of the interval of `estimate_pp`."),
    Column("high_pp", pl.Float64, "pp", "Upper end of the interval of `estimate_pp`."),
    Column("p_harm", pl.Float64, "0..1", "Probability that the true delta is at or below the harm cut."),
    Column("p_help", pl.Float64, "0..1", "Probability that the true delta is above 0."),
    Column("graded_estimate_pp", pl.Float64, "pp", "The same estimate of graded transfer."),
    Column("graded_low_pp", pl.Float64, "pp", "Lower end of the interval of `graded_estimate_pp`."),
    Column("graded_high_pp", pl.Float64, "pp", "Upper end of the interval of `graded_estimate_pp`."),
    Column("graded_p_help", pl.Float64, "0..1", "Probability that the true graded transfer is above 0."),
    REASON,
)


def recommendations_table(inputs: TableInputs) -> pl.DataFrame:
    """Return the estimate of every pair of a source and another target, over all models."""
    there = inputs.rows.filter(pl.col("delta_pp").is_not_null() & in_regime(ALL_TRANSFER))
    if there.is_empty():
        return there
    estimates = estimate_pairs(noisy_pairs(there, inputs.transfer.items), inputs.settings)
    return with_graded_estimates(estimates, there, inputs.transfer.graded_items, inputs.settings)


RECOMMENDATIONS = Table(
    name="recommendations",
    row="source, target",
    estimand=(
        "What 'grid recommend' ranks by: the mean true delta of these models from one source to one other target; the "
        "probabilities are about one more model like them."
    ),
    columns=_COLUMNS,
    shown="source target regime estimate_pp low_pp high_pp p_harm p_help",
    build=recommendations_table,
)
