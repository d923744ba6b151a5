"""Charts of the local page: a source over all targets, and how an adapter learnt."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import polars as pl

from transfergrid.analysis.charts.matrix import ROW_STEP, matrix_chart
from transfergrid.analysis.charts.matrix_data import matrix_data
from transfergrid.analysis.charts.rows import chart_rows
from transfergrid.analysis.records import cell_name
from transfergrid.config.settings import AnalysisConfig
from transfergrid.wording import level


def live_matrix(model: str, summaries: pl.DataFrame, settings: AnalysisConfig) -> alt.LayerChart:
    """Return the matrix of a model's deltas, averaged over seeds; without tests, which are the analysis' own.

    Args:
        model: Its name.
        summaries: As `ItemRows.summaries` returns them, of sources named ``task-lang``.
        settings: Level of intervals.
    """
    pairs = summaries.group_by("source", "target_task", "target_language", maintain_order=True).agg(
        pl.col("delta_pp", "base_score").mean(), pl.col("n_items").min(), n_seeds=pl.len().cast(pl.Int64)
    )
    unknown = pl.lit(None, dtype=pl.Float64)
    reason = pl.when(pl.col("delta_pp").is_null()).then(pl.lit("no item scored by both"))
    rows = pairs.with_columns(
        pl.lit(model).alias("model"),
        source_task=pl.col("source").str.extract(r"^(.*)-[^-]*$"),
        source_language=pl.col("source").str.extract(r"-([^-]*)$"),
        **dict.fromkeys(("se_pp", "df", "q_value", "graded_pp"), unknown),
        reason=reason,
    )
    return matrix_chart(matrix_data(rows, settings), level(settings.confidence))


def targets_chart(summaries: pl.DataFrame) -> alt.LayerChart:
    """Return the deltas of one source on every target, a bar each."""
    named = summaries.with_columns(target=cell_name("target"))
    columns = ["target", "delta_pp", "n_items", "n_gained", "n_lost"]
    chart = alt.Chart(chart_rows(named, columns)).encode(
        x=alt.X("delta_pp:Q", title="delta, pp").axis(tickCount=7),
        y=alt.Y("target:N", title=None, sort=named["target"].to_list()).axis(ticks=False, domain=False),
        tooltip=[alt.Tooltip(f"{name}:N", title=name.replace("_", " ")) for name in columns],
    )
    gains, losses = (chart.transform_filter(f"datum.delta_pp {sign} 0") for sign in (">=", "<"))
    bars = [gains.mark_bar(style="gain", height=12), losses.mark_bar(style="loss", height=12)]
    return alt.layer(*bars).properties(height=alt.Step(ROW_STEP))


def curve_points(steps: Any, epochs: Any) -> list[dict[str, Any]]:
    """Return training loss by step and validation loss by epoch, as far as a record has numbers."""
    points = []
    for rows, of, name in ((steps, "training", "loss"), (epochs, "validation", "validation_loss")):
        for row in rows if isinstance(rows, list) else ():
            numbers = [row.get(each) for each in ("step", name)] if isinstance(row, dict) else [None]
            if all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
                points.append({"step": numbers[0], "loss": numbers[1], "of": of})
    return points


def curve_chart(points: list[dict[str, Any]]) -> alt.LayerChart:
    """Return the points of `curve_points` as a line and dots."""
    chart = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X("step:Q", title="step").axis(tickCount=8),
        y=alt.Y("loss:Q", title="loss, nats").scale(zero=False),
        tooltip=["of:N", "loss:Q"],
    )
    line = chart.transform_filter("datum.of == 'training'").mark_line(style="whisker")
    dots = chart.transform_filter("datum.of == 'validation'").mark_point(style="dot", filled=True)
    return alt.layer(line, dots).properties(height=220, title="line: training; dots: validation")
