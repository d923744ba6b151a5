"""Charts of the local page: a source over all targets, and how an adapter learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from transfergrid.analysis.charts.matrix import ROW_STEP, matrix_chart
from transfergrid.analysis.charts.matrix_data import matrix_data
from transfergrid.analysis.charts.rows import chart_rows
from transfergrid.analysis.records import cell_name
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Cell, Source
from transfergrid.wording import level


def live_matrix(
    model: str, summaries: pl.DataFrame, sources: Mapping[str, Source], settings: AnalysisConfig
) -> alt.LayerChart:
    """Return the matrix of a model's deltas, averaged over seeds; without tests, which are the analysis' own.

    Single cells come first, by task; then all other sources, by kind and variant.

    Args:
        model: Its name.
        summaries: As `ItemRows.summaries` returns them.
        sources: By their names.
        settings: Level of intervals.
    """
    pairs = summaries.group_by("source", "target_task", "target_language", maintain_order=True).agg(
        pl.col("delta_pp", "base_score").mean(), pl.col("n_items").min(), n_seeds=pl.len().cast(pl.Int64)
    )
    unknown = pl.lit(None, dtype=pl.Float64)
    reason = pl.when(pl.col("delta_pp").is_null()).then(pl.lit("no item scored by both"))
    groups = {name: _row_of(source) for name, source in sources.items()}
    relations = [
        None if (source := sources[name]).cell else source.regime(Cell(task, language))
        for name, task, language in pairs.select("source", "target_task", "target_language").iter_rows()
    ]
    rows = pairs.with_columns(
        pl.lit(model).alias("model"),
        *(
            pl.col("source").replace_strict({name: row[place] for name, row in groups.items()}).alias(column)
            for place, column in enumerate(("source_kind", "source_task", "source_language"))
        ),
        pl.Series("relation", relations, dtype=pl.String),
        **dict.fromkeys(("se_pp", "df", "q_value", "graded_pp"), unknown),
        reason=reason,
    )
    return matrix_chart(matrix_data(rows, settings), level(settings.confidence))


def _row_of(source: Source) -> tuple[str, str, str]:
    """Return a source's kind, the head of its group of rows, and its label there."""
    if source.cell is not None:
        return source.kind, source.cell.task, source.cell.language
    if source.variant:
        return source.kind, f"variant {source.variant}", source.main_name
    return source.kind, f"{source.kind}s", source.name


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
