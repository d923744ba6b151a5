"""Regimes: how often and how far training on one cell helps or harms another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import special

from transfergrid.analysis.records import EVERY_REGIME, in_regime
from transfergrid.analysis.statistics.group_draws import Group
from transfergrid.analysis.statistics.group_intervals import DrawArray, estimate, intervals
from transfergrid.analysis.statistics.significance import holds_fdr
from transfergrid.analysis.tables.table import CONFIDENCE, REASON, REGIME, Column, Table, schema_of, with_ends
from transfergrid.config.settings import AnalysisConfig
from transfergrid.store.imported import SE_OF_SEEDS

DIMENSIONS = (
    "model",
    "family",
    "size",
    "source_task",
    "target_task",
    "source_language",
    "target_language",
    "source_language_family",
    "target_language_family",
    "construction",
)
"""Columns of the transfer table that regimes are broken down by."""

NO_ROWS = "no rows with a delta in this regime"

SEEDS_ONLY = "imported standard errors are across training seeds and leave out the noise of items and of the baseline"
"""What is wrong with standard errors and t tests of imported tables."""

_COLUMNS = (
    REGIME,
    Column("by", pl.String, "", "What rows are grouped by; `all`: the whole regime."),
    Column("group", pl.String, "", "Which group."),
    Column("n", pl.Int64, "rows", "Rows of the transfer table with a delta."),
    *with_ends(Column("mean_pp", pl.Float64, "pp", "Mean delta of the rows.")),
    *with_ends(Column("median_pp", pl.Float64, "pp", "Median delta of the rows.")),
    *with_ends(Column("win_rate", pl.Float64, "0..1", "Share of the rows with a delta above 0, noise included.")),
    *with_ends(Column("harm_rate", pl.Float64, "0..1", "Share of the rows beyond the harm cut, noise included.")),
    Column("resampled", pl.String, "", "What the bootstrap draws again for the intervals."),
    REASON,
    Column("n_tested", pl.Int64, "rows", "Rows with a test."),
    Column("harm_rate_significant", pl.Float64, "0..1", "Share of the tested rows beyond the cut and with q <= `fdr`."),
    Column("win_rate_significant", pl.Float64, "0..1", "Share of the tested rows above 0 and with q <= `fdr`."),
    Column("harm_rate_by_chance", pl.Float64, "0..1", "What `harm_rate` would be if every true delta were 0."),
    Column("median_se_pp", pl.Float64, "pp", "Median standard error of the rows."),
    Column("se_origin", pl.String, "", "All origins of standard errors that occur."),
    Column("harm_threshold_items", pl.Int64, "items", "The cut in items of a target."),
    Column("harm_threshold_pp", pl.Float64, "pp", "A delta at or below this is harm (setting)."),
    CONFIDENCE,
    Column("fdr", pl.Float64, "0..1", "False discovery rate of the tests (setting)."),
)


def regime_table(rows: pl.DataFrame, draws: DrawArray, settings: AnalysisConfig) -> pl.DataFrame:
    """Return n, mean, median, win and harm rate with intervals, by regime and by every one of `DIMENSIONS`.

    Args:
        rows: Transfer table.
        draws: Shape [rows, B] or [rows, 1]: deltas on resampled items, see `resample_deltas`.
        settings: Harm threshold, level, resamples, seed and false discovery rate.

    Returns:
        One row per (regime, by, group). A regime without rows has n 0 and a reason; an interval that cannot be
        computed is null with a reason.
    """
    usable = rows["delta_pp"].is_not_null()
    there = rows.filter(usable)
    groups = list(_groups(there))
    empty = [regime for regime in EVERY_REGIME if not there.filter(in_regime(regime)).height]
    frames = [_empty_rows(empty, settings)]
    if groups:
        frames.insert(0, _summarise(there, draws[usable.to_numpy()], groups, settings))
    order = {name: place for place, name in enumerate(EVERY_REGIME)}
    by_order = {name: place for place, name in enumerate(("all", *DIMENSIONS))}
    return pl.concat(frames, how="diagonal_relaxed").sort(
        pl.col("regime").replace_strict(order, return_dtype=pl.Int64),
        pl.col("by").replace_strict(by_order, return_dtype=pl.Int64),
        "group",
    )


def _groups(rows: pl.DataFrame) -> Iterator[Group]:
    indexed = rows.with_row_index("place")
    for regime in EVERY_REGIME:
        part = indexed.filter(in_regime(regime))
        if not part.height:
            continue
        yield Group(regime, "all", "all", part["place"].to_numpy().astype(np.intp))
        for by in DIMENSIONS:
            places = part.group_by(by).agg("place").sort(by)
            for name, index in places.iter_rows():
                yield Group(regime, by, name, np.sort(np.array(index, dtype=np.intp)))


def _summarise(rows: pl.DataFrame, draws: DrawArray, groups: Sequence[Group], settings: AnalysisConfig) -> pl.DataFrame:
    deltas = rows["delta_pp"].to_numpy()
    found = estimate(deltas, groups, settings.harm_threshold_pp)
    ends = intervals(rows, draws, groups, settings)
    columns: dict[str, object] = {
        "regime": [group.regime for group in groups],
        "by": [group.by for group in groups],
        "group": [group.name for group in groups],
        "n": [len(group.index) for group in groups],
    }
    for name in ("mean_pp", "median_pp", "win_rate", "harm_rate"):
        interval = getattr(ends, name)
        columns |= {name: getattr(found, name), f"{name}_low": interval.low, f"{name}_high": interval.high}
    frame = pl.DataFrame(columns | {"resampled": ends.resampled, "reason": ends.reasons}, strict=False)
    frame = frame.with_columns(pl.col(pl.Float64).fill_nan(None), pl.col("reason").cast(pl.String))
    return _with_settings(pl.concat([frame, _significance(rows, groups, settings)], how="horizontal"), settings)


def _significance(rows: pl.DataFrame, groups: Sequence[Group], settings: AnalysisConfig) -> pl.DataFrame:
    deltas = rows["delta_pp"].to_numpy()
    q_values = rows["q_value"].fill_null(np.nan).to_numpy()
    errors = rows["se_pp"].fill_null(np.nan).to_numpy()
    of_seeds = (rows["se_origin"] == SE_OF_SEEDS).fill_null(False).to_numpy()
    significant = holds_fdr(q_values, settings.fdr)
    harm = deltas <= settings.harm_threshold_pp
    with np.errstate(invalid="ignore", divide="ignore"):
        by_chance = np.where(
            errors > 0, special.ndtr(settings.harm_threshold_pp / errors), np.where(errors == 0, 0.0, np.nan)
        )
    records = []
    for group in groups:
        index = group.index
        tested = ~np.isnan(q_values[index])
        n_tested = int(tested.sum())
        records.append(
            {
                "n_tested": n_tested,
                "harm_rate_significant": float((significant & harm)[index].sum() / n_tested) if n_tested else None,
                "win_rate_significant": float((significant & (deltas > 0))[index].sum() / n_tested)
                if n_tested
                else None,
                "harm_rate_by_chance": None if of_seeds[index].any() else _mean_of_known(by_chance[index]),
                "se_origin": ", ".join(rows["se_origin"][index].unique().drop_nulls().sort()) or None,
                "median_se_pp": _median_of_known(errors[index]),
                "harm_threshold_items": _threshold_items(rows["n_items"][index], settings.harm_threshold_pp),
            }
        )
    rates = dict.fromkeys(("harm_rate_significant", "win_rate_significant", "harm_rate_by_chance"), pl.Float64)
    others = {"median_se_pp": pl.Float64, "se_origin": pl.String, "harm_threshold_items": pl.Int64}
    return pl.DataFrame(records, schema={"n_tested": pl.Int64, **rates, **others})


def _mean_of_known(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _median_of_known(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None


def _threshold_items(n_items: pl.Series, threshold_pp: float) -> int | None:
    known = n_items.drop_nulls()
    if known.is_empty():
        return None
    return math.ceil(-threshold_pp / 100 * float(known.median()) - 1e-9)  # type: ignore[arg-type]


def seeds_only(row: Mapping[str, Any]) -> bool:
    """Return whether a row of the regime table rests on standard errors that are across seeds only."""
    return SE_OF_SEEDS in (row["se_origin"] or "").split(", ")


def _empty_rows(regimes: Sequence[str], settings: AnalysisConfig) -> pl.DataFrame:
    rows = [
        {"regime": regime, "by": "all", "group": "all", "n": 0, "n_tested": 0, "reason": NO_ROWS} for regime in regimes
    ]
    return _with_settings(pl.DataFrame(rows, schema=schema_of(_COLUMNS)), settings)


def _with_settings(frame: pl.DataFrame, settings: AnalysisConfig) -> pl.DataFrame:
    return frame.with_columns(
        harm_threshold_pp=pl.lit(settings.harm_threshold_pp),
        confidence=pl.lit(settings.confidence),
        fdr=pl.lit(settings.fdr),
    )


REGIMES = Table(
    name="regimes",
    row="regime, by, group",
    estimand=(
        "Mean, median and rates of the observed deltas, over sources, targets and items like these, for these models; "
        "rates of observed deltas hold noise and are no rates of true effects."
    ),
    columns=_COLUMNS,
    shown="regime group n mean_pp mean_pp_low mean_pp_high win_rate harm_rate harm_rate_significant",
    build=lambda inputs: regime_table(inputs.rows, inputs.draws, inputs.settings),
)
