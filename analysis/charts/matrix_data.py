"""The transfer matrix as the page holds it: columns of numbers, one entry per (source, target)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import special

from transfergrid.analysis.charts.matrix import LISTS
from transfergrid.analysis.records import PAIR, SOURCE, TARGET
from transfergrid.analysis.statistics.significance import holds_fdr
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import CELL_KIND

ALL_MODELS = "all models"
"""Name of the view that averages over models."""

GRADED = ", graded transfer"
"""Ending of the names of views of graded transfer."""
NOT_THERE = "not part of this run"
DIGITS = {"delta_pp": 2, "half_pp": 2, "base_score": 3, "q_value": 4}
"""Decimals of the numbers in a page."""

_SCALE_QUANTILE = 0.98
_NICE_PP = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


def matrix_data(transfer: pl.DataFrame, settings: AnalysisConfig) -> dict[str, Any]:
    """Return the transfer matrix of every model and of their mean.

    Args:
        transfer: Transfer table, one row per (model, source, target).
        settings: Level of the intervals and false discovery rate.

    Returns:
        ``sources``: [task, language, name] in order, ``targets``: [task, language]. ``views``: one per model (and one
        for the mean of several), then the same of graded transfer where there is any, with the lists of `LISTS`; null
        where there is no such number, empty where no entry has one. ``reasons``: texts that ``reason`` points into; a
        cell with a reason was not scored. ``limit_pp``: where the colour scale ends.
    """
    kind = pl.col("source_kind")
    sources = transfer.select(*SOURCE, "source", "source_kind").unique().sort(kind != CELL_KIND, kind, *SOURCE)
    targets = transfer.select(TARGET).unique().sort(TARGET)
    places = sources.select(SOURCE).join(targets, how="cross", maintain_order="left_right")
    metrics = {"": _with_intervals(transfer, settings)}
    if transfer["graded_pp"].count():
        metrics[GRADED] = _graded(transfer, settings)
    reasons = sorted({NOT_THERE, *(reason for rows in metrics.values() for reason in rows["reason"].drop_nulls())})
    views = [
        view | {"name": view["name"] + ending}
        for ending, rows in metrics.items()
        for view in _views(places, rows, reasons, settings)
    ]
    return {
        "sources": [list(row) for row in sources.select(*SOURCE, "source").iter_rows()],
        "targets": [list(row) for row in targets.iter_rows()],
        "views": [{"view": place, **view} for place, view in enumerate(views)],
        "reasons": reasons,
        "limit_pp": colour_limit(transfer["delta_pp"].drop_nulls().to_numpy()),
    }


def _views(
    places: pl.DataFrame, rows: pl.DataFrame, reasons: Sequence[str], settings: AnalysisConfig
) -> list[dict[str, Any]]:
    """Return the view of every model, after that of their mean where there are several."""
    models = rows["model"].unique().sort().to_list()
    views = [_model_view(model, places, rows, reasons) for model in models]
    return [_mean_view(places, rows, reasons, settings), *views] if len(models) > 1 else views


def _graded(transfer: pl.DataFrame, settings: AnalysisConfig) -> pl.DataFrame:
    """Return the rows with graded transfer in the columns of the delta; a probability has no base score."""
    none = pl.lit(None, dtype=pl.Float64).alias("base_score")
    graded = {"delta_pp": "graded_pp", "se_pp": "graded_se_pp", "q_value": "graded_q", "reason": "graded_reason"}
    half = (pl.col("graded_pp_high") - pl.col("graded_pp_low")) / 2
    return _with_intervals(transfer.with_columns(none, **graded), settings).with_columns(half_pp=half)


def colour_limit(deltas: np.ndarray) -> float:
    """Return where the colour scale ends: the next round number of pp that covers 98 % of the deltas."""
    if not len(deltas):
        return 1.0
    covered = max(float(np.quantile(np.abs(deltas), _SCALE_QUANTILE)), 1.0)
    decade = 10.0 ** math.floor(math.log10(covered))
    return next(step * decade for step in _NICE_PP if step * decade >= covered - 1e-9)


def half_width(se_pp: pl.Series, df: pl.Series, confidence: float) -> pl.Series:
    """Return half the width of t intervals; null where there is no standard error, or it is 0.

    A standard error of 0 means that no answer changed, which says nothing about how sure the 0 is.
    """
    errors, degrees = (each.cast(pl.Float64).fill_null(np.nan).to_numpy() for each in (se_pp, df))
    with np.errstate(invalid="ignore"):
        width = special.stdtrit(degrees, 0.5 + confidence / 2) * errors
    return pl.Series(np.where(errors > 0, width, np.nan)).fill_nan(None)


def _with_intervals(transfer: pl.DataFrame, settings: AnalysisConfig) -> pl.DataFrame:
    q_values = transfer["q_value"].fill_null(np.nan).to_numpy()
    return transfer.with_columns(
        half_pp=half_width(transfer["se_pp"], transfer["df"], settings.confidence),
        significant=pl.when(pl.col("q_value").is_not_null()).then(pl.Series(holds_fdr(q_values, settings.fdr))),
    )


def _model_view(model: str, places: pl.DataFrame, rows: pl.DataFrame, reasons: Sequence[str]) -> dict[str, Any]:
    part = _placed(places, rows.filter(pl.col("model") == model).rename({"n_seeds": "n"}), reasons)
    return {"name": model, "n_is": "seeds", **_columns(part.with_columns(pl.col("significant").cast(pl.Int8)))}


def _mean_view(
    places: pl.DataFrame, rows: pl.DataFrame, reasons: Sequence[str], settings: AnalysisConfig
) -> dict[str, Any]:
    there = pl.col("delta_pp").is_not_null()
    significant = pl.col("significant").fill_null(False)
    mean = rows.group_by(PAIR).agg(
        delta_pp=pl.col("delta_pp").mean(),
        se_pp=pl.col("delta_pp").std() / there.sum().sqrt(),
        df=there.sum().cast(pl.Float64) - 1,
        n=there.sum().cast(pl.Int64),
        n_tested=pl.col("significant").count().cast(pl.Int64),
        n_gain=(significant & (pl.col("delta_pp") > 0)).sum().cast(pl.Int64),
        n_loss=(significant & (pl.col("delta_pp") < 0)).sum().cast(pl.Int64),
        base_score=pl.col("base_score").filter(there).mean(),
        n_items=pl.col("n_items").min(),
        reason=pl.when(~there.any()).then(pl.col("reason").drop_nulls().sort().first()),
    )
    most = 2 * pl.max_horizontal("n_gain", "n_loss") > pl.col("n_tested")
    mean = mean.with_columns(
        half_pp=half_width(mean["se_pp"], mean["df"], settings.confidence),
        significant=pl.when(pl.col("n_tested") > 0).then(most.cast(pl.Int8)),
    )
    return {"name": ALL_MODELS, "n_is": "models", **_columns(_placed(places, mean, reasons))}


def _placed(places: pl.DataFrame, rows: pl.DataFrame, reasons: Sequence[str]) -> pl.DataFrame:
    """Put rows in the order of the matrix; a place without a delta points to its reason."""
    number = {reason: index for index, reason in enumerate(reasons)}
    missing = pl.col("delta_pp").is_null()
    return places.join(rows, on=list(PAIR), how="left", validate="1:1", maintain_order="left").with_columns(
        reason=pl.when(missing).then(
            pl.col("reason").fill_null(NOT_THERE).replace_strict(number, return_dtype=pl.Int64)
        )
    )


def _columns(part: pl.DataFrame) -> dict[str, list[Any]]:
    lists = {}
    for name in LISTS:
        there = name in part.columns and part[name].null_count() < part.height
        column = part[name] if there else pl.Series([], dtype=pl.Int64)
        lists[name] = (column.round(DIGITS[name]) if column.dtype.is_float() else column).to_list()
    return lists
