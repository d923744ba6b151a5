"""The smallest delta that a grid shows, against items and seeds."""

from __future__ import annotations

import altair as alt
import polars as pl

from transfergrid.analysis.charts.rows import chart_rows, select

_HEIGHT = 300


def power_chart(curves: pl.DataFrame) -> alt.LayerChart:
    """Return a line for every statement; the reader chooses the seeds."""
    seeds = curves["n_seeds"].unique().sort().to_list()
    chart = alt.Chart(chart_rows(curves, curves.columns)).transform_filter("datum.n_seeds == seeds")
    points = chart.encode(
        x=alt.X("n_items:Q", title="items of a target").scale(type="log"),
        y=alt.Y("delta_pp:Q", title="smallest true delta that is shown, pp").scale(type="log"),
        tooltip=["statement:N", "n_items:Q", "n_seeds:Q", alt.Tooltip("delta_pp:Q", format=".2f")],
    )
    one_point = alt.Chart(alt.InlineData(values=[{"delta_pp": 1}])).mark_rule(style="thin", aria=False)
    named = points.transform_filter(f"datum.n_items == {max(curves['n_items'].to_list(), default=0)}")
    return (
        alt.layer(
            one_point.encode(y="delta_pp:Q"),
            points.mark_line(style="whisker").encode(detail="statement:N"),
            points.mark_circle(style="dot"),
            named.mark_text(style="label", align="left", dx=8, aria=False).encode(text="statement:N"),
        )
        .add_params(select("seeds", "Training seeds", seeds or [1], [str(each) for each in seeds or [1]]))
        .properties(height=_HEIGHT, title="shown in four of five runs; line: 1 pp")
    )
