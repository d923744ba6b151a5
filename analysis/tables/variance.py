"""Where the variance of transfer comes from: model, source and target, nested as published and crossed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from scipy import special

from transfergrid.analysis.arrays import BoolArray, Float32Array, FloatArray, IntArray
from transfergrid.analysis.records import EVERY_REGIME, ItemBlock, in_regime
from transfergrid.analysis.statistics.component_noise import noise_of_components
from transfergrid.analysis.statistics.levels import count_levels, level_codes
from transfergrid.analysis.statistics.multiway import Influences, item_influences
from transfergrid.analysis.statistics.reml import FitError, RemlFit, fit_reml, same_grouping
from transfergrid.analysis.tables.table import CONFIDENCE, REASON, REGIME, Column, Table, schema_of, with_ends
from transfergrid.config.settings import AnalysisConfig

NESTED, CROSSED, PARTS = "nested", "crossed", "crossed, task and language"
"""Names of the three fits."""

RESIDUAL = "residual"
METHOD = "REML, Wald intervals on the log scale (shares: logit scale)"
WIDEST = 1000.0
"""Factor on either side of a variance above which it has no interval."""
NEARLY_ZERO = "no interval: the variance may as well be 0"
SINGULAR = "estimated as zero: a singular fit, so no interval; the other components still hold"

_CELLS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "source": ("source_task", "source_language"),
    "target": ("target_task", "target_language"),
}
_PARTS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "source task": ("source_task",),
    "source language": ("source_language",),
    "target task": ("target_task",),
    "target language": ("target_language",),
    "source cell": ("source_task", "source_language"),
    "target cell": ("target_task", "target_language"),
}

_TRUE_COLUMNS = (
    *with_ends(Column("variance_true_pp2", pl.Float64, "pp^2", "The same, noise of items taken off.")),
    *with_ends(
        Column(
            "share_true",
            pl.Float64,
            "0..1",
            "The same share, noise of items taken off; null without items or where little is left.",
        )
    ),
)
_Inside = Sequence[tuple[IntArray, Float32Array]]
"""Rows of one regime and what their items add to them."""

_COLUMNS = (
    Column("fit", pl.String, "", "Which of the three models of variance."),
    REGIME,
    Column("component", pl.String, "", "Model, source, target (or their parts), or `residual`."),
    Column("n_rows", pl.Int64, "rows", "Rows in the fit."),
    Column("n_levels", pl.Int64, "levels", "Levels of the component."),
    *with_ends(Column("variance_pp2", pl.Float64, "pp^2", "Variance of the component, noise of items included.")),
    *with_ends(Column("share", pl.Float64, "0..1", "The variance divided by the sum over components.")),
    *_TRUE_COLUMNS,
    Column("mean_pp", pl.Float64, "pp", "Intercept of the fit."),
    Column("mean_se_pp", pl.Float64, "pp", "Standard error of the intercept."),
    CONFIDENCE,
    Column("method", pl.String, "", "How variances and intervals are estimated."),
    REASON,
)


def variance_table(rows: pl.DataFrame, settings: AnalysisConfig, *, items: Sequence[ItemBlock] = ()) -> pl.DataFrame:
    """Return the variance components of ``delta_pp`` in every regime, for the three fits.

    ``nested``: groups are models, source and target cells vary within each model (statsmodels' MixedLM with
    ``groups=model, re_formula="1"`` and two variance components, as in the study's release). ``crossed``: model,
    source and target are three crossed factors. The third fit splits source and target into task, language and
    the rest of the cell.

    Args:
        rows: Transfer table.
        settings: Level of the intervals.
        items: Item-wise differences, whose noise is taken off for ``variance_true_pp2`` and ``share_true``.

    Returns:
        One row per (fit, regime, component); what cannot be estimated is null with a reason.
    """
    there = rows.filter(pl.col("delta_pp").is_not_null())
    influences = list(item_influences(there, items))
    masks = {regime: there.select(in_regime(regime)).to_series().to_numpy() for regime in EVERY_REGIME}
    known = {regime: _inside(influences, mask) for regime, mask in masks.items()}
    return pl.concat(
        variance_rows(fit, regime, there.filter(masks[regime]), settings, known[regime])
        for fit in (NESTED, CROSSED, PARTS)
        for regime in EVERY_REGIME
    )


def variance_rows(
    fit: str, regime: str, part: pl.DataFrame, settings: AnalysisConfig, influences: _Inside
) -> pl.DataFrame:
    """Return the rows of one fit of one regime, whose rows and influences these are."""
    blocks = level_codes(part, ("model",)) if fit == NESTED else None
    try:
        codes, dropped = _usable(part, _PARTS if fit == PARTS else _CELLS, blocks)
        found = fit_reml(part["delta_pp"].to_numpy(), codes, blocks=blocks)
    except FitError as error:
        return _frame(fit, regime, part.height, [{"component": "all", "reason": str(error)}])
    noise = None  # not every row has items
    if sum(len(rows) for rows, _ in influences) == part.height:
        own = {name: _own(name, each, blocks) for name, each in codes.items()}
        noise = noise_of_components(found, own, influences)
    return _frame(fit, regime, part.height, [*_records(found, codes, noise, settings), *dropped])


def _inside(influences: Sequence[Influences], mask: BoolArray) -> _Inside:
    place = np.cumsum(mask) - 1
    return [(place[each.rows[mask[each.rows]]], each.values[mask[each.rows]]) for each in influences]


def _frame(fit: str, regime: str, n_rows: int, records: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(
        [{"fit": fit, "regime": regime, "n_rows": n_rows, "method": METHOD, **record} for record in records],
        schema=schema_of(_COLUMNS),
    )


def _usable(
    part: pl.DataFrame, columns: Mapping[str, tuple[str, ...]], blocks: IntArray | None
) -> tuple[dict[str, IntArray], list[dict[str, str]]]:
    """Return the components that can be told apart, and why the others cannot."""
    if part.height < 3:
        raise FitError(f"{part.height} rows are too few for a mixed model")
    kept: dict[str, IntArray] = {}
    dropped = []
    for name, keys in columns.items():
        codes = level_codes(part, keys)
        reason = _why_not(part.height, _own(name, codes, blocks), kept, codes)
        if reason is None:
            kept[name] = codes
        else:
            dropped.append({"component": name, "reason": reason})
    if not kept:
        raise FitError("no factor has two levels that recur, so there is nothing to decompose")
    return kept, dropped


def _why_not(n_rows: int, levels: IntArray, kept: Mapping[str, IntArray], codes: IntArray) -> str | None:
    n_levels = count_levels(levels)
    if count_levels(codes) < 2:
        return "one level only: its variance cannot be told from the mean"
    if n_levels == n_rows:
        return "one row per level: it cannot be told from the residual"
    twin = next((name for name, other in kept.items() if same_grouping(codes, other)), None)
    return None if twin is None else f"groups the rows as {twin!r} does: the two cannot be told apart"


def _own(name: str, codes: IntArray, blocks: IntArray | None) -> IntArray:
    """Return the levels of a component; nested in blocks they are each block's own."""
    return codes if blocks is None or name == "model" else blocks * len(codes) + codes


def _records(
    found: RemlFit, codes: Mapping[str, IntArray], noise: FloatArray | None, settings: AnalysisConfig
) -> Iterator[dict[str, object]]:
    ends = variance_intervals(found, settings.confidence)
    total = float(found.variances.sum())
    true = np.full(len(ends), np.nan) if noise is None else np.maximum(found.variances - noise, 0.0)
    true_ends = variance_intervals(replace(found, variances=true), settings.confidence)
    total_true = float(true.sum())
    if not total_true > _least_total(found, settings.confidence):
        total_true, true_ends[:, 2:] = np.nan, np.nan
    for place, name in enumerate((*found.names, RESIDUAL)):
        variance, limits, true_limits = float(found.variances[place]), ends[place], true_ends[place]
        yield {
            "component": name,
            "n_levels": found.n_rows if name == RESIDUAL else count_levels(codes[name]),
            **_with_ends("variance_pp2", variance, limits[:2]),
            **_with_ends("share", variance / total, limits[2:]),
            **_with_ends("variance_true_pp2", true[place], true_limits[:2]),
            **_with_ends("share_true", true[place] / total_true, true_limits[2:]),
            "mean_pp": float(found.fixed[0]),
            "mean_se_pp": float(found.fixed_se[0]),
            "confidence": settings.confidence,
            "reason": SINGULAR if variance == 0 else None if np.isfinite(limits[0]) else NEARLY_ZERO,
        }


def _with_ends(name: str, value: float, ends: FloatArray) -> dict[str, float | None]:
    columns = zip((name, f"{name}_low", f"{name}_high"), (value, *ends), strict=True)
    return {column: float(each) if np.isfinite(each) else None for column, each in columns}


def _least_total(found: RemlFit, confidence: float) -> float:
    """Return the sum of variances, pp^2, below which it may as well be 0: shares of it would say nothing."""
    inside = np.flatnonzero(found.variances > 0)
    covariance = np.linalg.pinv(found.information[np.ix_(inside, inside)])
    return float(special.ndtri(1 - (1 - confidence) / 2) * np.sqrt(max(covariance.sum(), 0.0)))


def variance_intervals(found: RemlFit, confidence: float) -> FloatArray:
    """Return shape [K + 1, 4]: low and high of every variance, low and high of its share; NaN at zero.

    Asymptotic: the inverse of the expected REML information gives standard errors; intervals are symmetric on the
    log scale of a variance and on the logit scale of a share. Components at zero are left out of the information. A
    variance has no interval where its ends would be `WIDEST` times as little and as much.
    """
    inside = np.flatnonzero(found.variances > 0)
    variances = found.variances[inside]
    covariance = np.linalg.pinv(found.information[np.ix_(inside, inside)])
    z = float(special.ndtri(1 - (1 - confidence) / 2))
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    shares = variances / variances.sum()
    jacobian = (np.eye(len(inside)) - shares[:, None]) / variances.sum()
    share_errors = np.sqrt(np.maximum(np.diag(jacobian @ covariance @ jacobian.T), 0.0))
    log_width = z * errors / variances
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logit, logit_width = special.logit(shares), z * share_errors / (shares * (1 - shares))
        widening = np.where(log_width < np.log(WIDEST), np.exp(log_width), np.nan)
    ends = np.full((len(found.variances), 4), np.nan)
    ends[inside, 0], ends[inside, 1] = variances / widening, variances * widening
    ends[inside, 2], ends[inside, 3] = special.expit(logit - logit_width), special.expit(logit + logit_width)
    return ends


VARIANCE = Table(
    name="variance",
    row="fit, regime, component",
    estimand=(
        "How much the delta varies with model, source and target, over models and cells like these; with noise of "
        "these items, and (`_true`) without it. What one model has on a target and others have not is in `residual` "
        "(crossed) or `target` (nested)."
    ),
    columns=_COLUMNS,
    shown="fit regime component n_levels variance_pp2 share share_true share_true_low share_true_high",
    build=lambda inputs: variance_table(inputs.rows, inputs.settings, items=inputs.transfer.items),
)
