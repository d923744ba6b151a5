"""Which source cells help a target, by a shrunken estimate with its interval and its risk.

The deltas of all (source, target) pairs, averaged over the chosen models, are noisy; `pair_noise` says how noisy and
which noise the sources of a target share, `shrinkage` draws every delta towards what its source and target do
elsewhere, the more the noisier it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from rich import box
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from scipy import special

from transfergrid.analysis.statistics.pair_noise import PairNoise, independent_noise, measure_noise
from transfergrid.analysis.statistics.reml import FitError
from transfergrid.analysis.statistics.shrinkage import shrink
from transfergrid.analysis.tables.regimes import ALL_TRANSFER, in_regime
from transfergrid.analysis.transfer.pairing import PAIR, SOURCE, TARGET, ItemBlock
from transfergrid.analysis.transfer.table import Transfer, read_transfer
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import Cell, Regime, RunFolder, UserError
from transfergrid.wording import level

HIGH_HARM = 0.5
"""``--avoid`` lists sources whose probability of harm is above this."""

LIKELY_HELP = 0.5
"""A table in which no source has a probability of help above this says that nothing is recommended."""

MATCHED = "the target's own cell: its delta as measured, not part of the model"
NO_DATA = "no data: this source was not scored on the target"
NO_INTERVAL = "no interval: the table has no standard errors"
NOTHING_SHARED = (
    "without items, noise that all sources of a target share (its baseline's) counts as the target's effect"
)

_SCHEMA = {
    "source_task": pl.String,
    "source_language": pl.String,
    "regime": pl.String,
    "estimate_pp": pl.Float64,
    "low_pp": pl.Float64,
    "high_pp": pl.Float64,
    "p_harm": pl.Float64,
    "p_help": pl.Float64,
    "observed_pp": pl.Float64,
    "n_models": pl.Int64,
    "reason": pl.String,
}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Sources for one target, best first (worst first when they are to be avoided)."""

    target: Cell
    models: tuple[str, ...]
    table: pl.DataFrame
    """One row per source cell: estimate, interval, probabilities of harm and help, observed mean, reason."""
    avoid: bool
    settings: AnalysisConfig
    note: str
    """How the noise was measured and what the probabilities are about."""

    def __rich__(self) -> RenderableType:
        """Show the first rows and what the columns mean."""
        return _render(self)

    def to_json(self) -> str:
        """Return all rows as a JSON list of objects."""
        return self.table.write_json()

    def to_csv(self) -> str:
        """Return all rows as CSV."""
        return self.table.write_csv()


class _Pairs(NamedTuple):
    frame: pl.DataFrame
    """One row per (source, target) with ``mean_pp`` and ``n_models``."""
    noise: PairNoise
    between_models: float
    """Variance of a pair's true delta between models, their overall levels included."""
    note: str
    """How the noise was measured."""


def recommend(
    run: RunFolder,
    config: GridConfig | None = None,
    *,
    target: Cell,
    model: str | None = None,
    avoid: bool = False,
) -> Recommendation:
    """Rank source cells for a target.

    Args:
        run: The run's folder.
        config: Settings of the analysis and the models' traits.
        target: The cell to find sources for.
        model: Use this model only; None: all models, and the probabilities are about a model like them.
        avoid: List the sources that probably harm, worst first.

    Raises:
        UserError: If the run has no transfer row, or the target or model is not in it.
    """
    settings = config.analysis if config is not None else AnalysisConfig()
    return recommend_from(read_transfer(run, config), settings, target=target, model=model, avoid=avoid)


def recommend_from(
    transfer: Transfer, settings: AnalysisConfig, *, target: Cell, model: str | None = None, avoid: bool = False
) -> Recommendation:
    """Rank source cells for a target from a transfer table; see `recommend`."""
    rows = _choose(transfer.rows, target, model)
    there = rows.filter(pl.col("delta_pp").is_not_null())
    models = tuple(there["model"].unique().sort())
    pairs = _pairs(there.filter(in_regime(ALL_TRANSFER)), transfer.items)
    estimates = _estimates(pairs, target, settings)
    table = _with_everything_else(estimates, rows, target)
    if avoid:
        table = table.filter(pl.col("p_harm") > HIGH_HARM).sort("p_harm", "estimate_pp", descending=[True, False])
    return Recommendation(target, models, table, avoid, settings, pairs.note)


def _choose(rows: pl.DataFrame, target: Cell, model: str | None) -> pl.DataFrame:
    if rows.is_empty():
        raise UserError("the run has no scores and no imported table; run 'grid eval' or 'grid import' first")
    models = rows["model"].unique().sort().to_list()
    if model is not None and model not in models:
        raise UserError(f"model {model!r} is not in the run; expected one of {models}")
    chosen = rows if model is None else rows.filter(pl.col("model") == model)
    at_target = (pl.col("target_task") == target.task) & (pl.col("target_language") == target.language)
    if not chosen.filter(at_target & pl.col("delta_pp").is_not_null()).height:
        cells = chosen.select(pl.concat_str("target_task", "target_language", separator="-").unique().sort())
        raise UserError(f"no data for target {target.name!r}; expected one of {cells.to_series().to_list()}")
    return chosen


def _pairs(rows: pl.DataFrame, items: Sequence[ItemBlock]) -> _Pairs:
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


def _estimates(pairs: _Pairs, target: Cell, settings: AnalysisConfig) -> pl.DataFrame:
    frame = pairs.frame
    at_target = ((frame["target_task"] == target.task) & (frame["target_language"] == target.language)).to_numpy()
    observed = frame["mean_pp"].to_numpy()
    reason = None
    try:
        mean, variance, _ = shrink(frame, observed, pairs.noise)
    except FitError as error:
        mean, variance = observed, pairs.noise.variance
        reason = f"not shrunken: {error}"
    z = float(special.ndtri(1 - (1 - settings.confidence) / 2))
    spread = np.sqrt(variance + pairs.between_models)
    unknown = NO_INTERVAL if reason is None else f"{reason}; {NO_INTERVAL}"
    return (
        frame.select(*SOURCE, "regime", "n_models", observed_pp="mean_pp")
        .with_columns(
            estimate_pp=pl.Series(mean),
            low_pp=pl.Series(mean - z * np.sqrt(variance)).fill_nan(None),
            high_pp=pl.Series(mean + z * np.sqrt(variance)).fill_nan(None),
            p_harm=pl.Series(special.ndtr((settings.harm_threshold_pp - mean) / spread)).fill_nan(None),
            p_help=pl.Series(special.ndtr(mean / spread)).fill_nan(None),
            reason=pl.when(pl.Series(np.isnan(variance))).then(pl.lit(unknown)).otherwise(pl.lit(reason)),
        )
        .filter(pl.Series(at_target))
    )


def _with_everything_else(estimates: pl.DataFrame, rows: pl.DataFrame, target: Cell) -> pl.DataFrame:
    """Add the matched cell and the sources without data, then sort best first."""
    sources = rows.select("source_task", "source_language").unique()
    at_target = (pl.col("target_task") == target.task) & (pl.col("target_language") == target.language)
    own = (
        rows.filter(at_target & (pl.col("regime") == Regime.MT_ML.value) & pl.col("delta_pp").is_not_null())
        .group_by("source_task", "source_language", "regime", maintain_order=True)
        .agg(observed_pp=pl.col("delta_pp").mean(), n_models=pl.len().cast(pl.Int64))
        .with_columns(reason=pl.lit(MATCHED))
    )
    found = pl.concat([estimates, own], how="diagonal")
    missing = sources.join(found, on=["source_task", "source_language"], how="anti").with_columns(
        reason=pl.lit(NO_DATA), n_models=pl.lit(0, dtype=pl.Int64)
    )
    everything = pl.concat([pl.DataFrame(schema=_SCHEMA), found, missing], how="diagonal_relaxed")
    return everything.select(list(_SCHEMA)).sort(
        "estimate_pp", "source_task", "source_language", descending=[True, False, False], nulls_last=True
    )


def _render(found: Recommendation, n_rows: int = 12) -> RenderableType:
    order = "probably harmful, worst first" if found.avoid else "best first"
    whose = found.models[0] if len(found.models) == 1 else f"{len(found.models)} models"
    title = Text(f"Sources for {found.target.name} ({whose}), {order}")
    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    for name in (
        "source",
        "regime",
        "estimate",
        f"{level(found.settings.confidence)} interval",
        "P(harm)",
        "P(help)",
        "observed",
    ):
        table.add_column(name, justify="left" if name in ("source", "regime") else "right", no_wrap=True)
    for row in found.table.head(n_rows).iter_rows(named=True):
        table.add_row(*map(Text, _cells(row)))
    notes = [
        *_verdict(found),
        found.note,
        f"in pp; harm: delta <= {found.settings.harm_threshold_pp:g} pp; "
        "estimates are drawn towards what source and target do elsewhere",
    ]
    if found.table.height > n_rows:
        notes.append(f"{found.table.height - n_rows} more rows: --json or --csv")
    reasons = found.table.head(n_rows)["reason"].drop_nulls().unique().sort().to_list()
    return RichGroup(table, Text("\n".join([*notes, *reasons])))


def _verdict(found: Recommendation) -> list[str]:
    """Say what a table does not show by itself: that nothing in it deserves the name of a recommendation."""
    if found.avoid:
        return [f"no source has a probability of harm above {level(HIGH_HARM)}"] if found.table.is_empty() else []
    chances = found.table["p_help"].drop_nulls()
    if chances.is_empty():
        return ["no source can be recommended: none has an estimate with a probability"]
    return [] if (chances > LIKELY_HELP).any() else ["none of them is more likely to help than not"]


def _cells(row: dict[str, object]) -> list[str]:
    def number(name: str, pattern: str = "+.2f") -> str:
        value = row[name]
        return "-" if value is None else f"{value:{pattern}}"

    interval = "-" if row["low_pp"] is None else f"{row['low_pp']:+.2f} .. {row['high_pp']:+.2f}"
    return [
        f"{row['source_task']}-{row['source_language']}",
        str(row["regime"] or "-"),
        number("estimate_pp"),
        interval,
        number("p_harm", ".0%"),
        number("p_help", ".0%"),
        number("observed_pp"),
    ]
