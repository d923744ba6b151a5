"""Values with their intervals, one row each: regimes, shares of variance, agreement of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from transfergrid.analysis.charts.rows import chart_rows, select
from transfergrid.analysis.records import EVERY_REGIME
from transfergrid.analysis.tables.variance import CROSSED, NESTED

MEASURES = {
    "mean_pp": "mean delta, pp",
    "win_rate_true": "truly gained, % of pairs",
    "harm_rate_true": "truly harmed, % of pairs",
    "win_rate": "seen to gain, noise included, % of pairs",
    "harm_rate": "seen harmed, noise included, % of pairs; line: by chance alone",
}
"""What the regimes can show, by column."""

_ROW_STEP = 24
_COUNTS = ["n", "n_tested"]


def regimes_chart(regimes: pl.DataFrame, *, measure: str = "mean_pp") -> alt.LayerChart:
    """Return every regime's mean or rate with its interval, split by what the reader chooses."""
    columns = [*MEASURES, *(f"{name}_{end}" for name in MEASURES for end in ("low", "high"))]
    keys = ["regime", "by", "group", *_COUNTS, "harm_rate_by_chance", "reason"]
    rows = chart_rows(regimes, [*keys, *columns])
    percent = "(measure == 'mean_pp' ? 1 : 100)"
    chart = (
        alt.Chart(rows)
        .transform_filter("datum.by == by && (by == 'all' || datum.regime == regime)")
        .transform_calculate(
            name="by == 'all' ? datum.regime : datum.group",
            value=f"datum[measure] == null ? null : {percent} * datum[measure]",
            low=f"datum[measure + '_low'] == null ? null : {percent} * datum[measure + '_low']",
            high=f"datum[measure + '_low'] == null ? null : {percent} * datum[measure + '_high']",
            mark="measure == 'harm_rate' && datum.harm_rate_by_chance != null ? 100 * datum.harm_rate_by_chance : null",
            tone="measure == 'mean_pp' ? (datum.value < 0 ? 'loss' : 'gain') : 'plain'",
        )
    )
    splits = regimes["by"].unique(maintain_order=True).to_list()
    params = [
        select("measure", "Measure", list(MEASURES), list(MEASURES.values()), value=measure),
        select("by", "Split by", splits, [_split_words(each) for each in splits]),
        select("regime", "Regime of a split", list(EVERY_REGIME)),
        alt.param(name="measures", value=MEASURES),
    ]
    title = alt.TitleParams(text=alt.expr("measures[measure]"))
    order = [*EVERY_REGIME, *sorted(set(regimes["group"].drop_nulls()))]
    return _bars(chart, said=["name", *_COUNTS], order=order).add_params(*params).properties(title=title)


def _split_words(by: str) -> str:
    words = by.replace("source", "trained").replace("target", "scored").replace("_", " ")
    return {"all": "nothing", "construction": "how the items were made"}.get(by, words)


def variance_chart(variance: pl.DataFrame) -> alt.LayerChart:
    """Return the shares of variance by fit and component; the reader chooses the regime."""
    fits = {CROSSED: "crossed", NESTED: "nested, as published", "crossed, task and language": "crossed, split"}
    known = variance.filter(variance["fit"].is_in(list(fits)))
    rows = chart_rows(
        known, ["fit", "regime", "component", "n_levels", "variance_pp2", "share", "share_low", "share_high", "reason"]
    )
    of_components = known["component"].unique(maintain_order=True).to_list()
    chart = (
        alt.Chart(rows)
        .transform_filter("datum.regime == regime")
        .transform_calculate(
            name="fits[datum.fit] + ': ' + datum.component",
            value="datum.share == null ? null : 100 * datum.share",
            low="datum.share_low == null ? null : 100 * datum.share_low",
            high="datum.share_low == null ? null : 100 * datum.share_high",
            mark="null",
            tone="datum.component == 'residual' ? 'plain' : 'gain'",
        )
    )
    there = known.filter(known["share"].is_not_null())["regime"].unique(maintain_order=True).to_list()
    best = "MT-CL" if "MT-CL" in there else next(iter(there), EVERY_REGIME[0])
    params = [select("regime", "Regime", list(EVERY_REGIME), value=best), alt.param(name="fits", value=fits)]
    order = [f"{fits[fit]}: {component}" for fit in fits for component in of_components]
    title = "share of the variance of the deltas, %"
    return (
        _bars(chart, said=["name", "n_levels", "variance_pp2"], order=order).add_params(*params).properties(title=title)
    )


def agreement_chart(consistency: pl.DataFrame) -> alt.LayerChart:
    """Return how alike models rank the targets of a source: medians and the middle half of the sources."""
    columns = [
        "unit",
        "regime",
        "n_sources",
        "n_sources_undefined",
        "median",
        "lower_quartile",
        "upper_quartile",
        "reason",
    ]
    chart = alt.Chart(chart_rows(consistency, columns)).transform_calculate(
        name="datum.regime + (datum.unit == 'model' ? '' : ', model ' + datum.unit)",
        value="datum.median",
        low="datum.lower_quartile",
        high="datum.upper_quartile",
        mark="null",
        tone="'dot'",
    )
    said = ["name", "n_sources", "n_sources_undefined"]
    return _bars(chart, said=said, order=None, domain=(-1, 1)).properties(title="Kendall's tau-b")


def _bars(
    chart: alt.Chart, *, said: Sequence[str], order: list[str] | None, domain: tuple[float, float] | None = None
) -> alt.LayerChart:
    """Draw rows with ``name``, ``value``, ``low``, ``high``, ``mark``, ``tone`` (a style) and ``reason``."""
    y = alt.Y("name:N", title=None, sort=order).axis(ticks=False, domain=False)
    scale = alt.Scale(zero=True) if domain is None else alt.Scale(domain=list(domain))
    x = alt.X("value:Q", title=None, scale=scale).axis(tickCount=7)
    names = {"n": "pairs", "n_tested": "tested pairs", "n_levels": "levels", "variance_pp2": "variance, pp²"}
    tooltip: list[Any] = [alt.Tooltip(f"{name}:N", title=names.get(name, name.replace("_", " "))) for name in said]
    tooltip += [alt.Tooltip(f"{name}:Q", format="+.2f") for name in ("value", "low", "high")]
    tooltip.append(alt.Tooltip("reason:N"))
    both = chart.encode(x=x, y=y, tooltip=tooltip)
    known = both.transform_filter("datum.value != null")
    layers = [known.transform_filter(f"datum.tone == '{tone}'").mark_bar(style=tone, height=14) for tone in _TONES]
    layers.append(
        known.transform_filter("datum.low != null")
        .mark_rule(style="whisker", aria=False)
        .encode(x="low:Q", x2="high:Q")
    )
    layers.append(known.transform_filter("datum.tone == 'dot'").mark_circle(style="dot"))
    layers.append(known.transform_filter("datum.mark != null").mark_tick(style="mark", aria=False).encode(x="mark:Q"))
    why = "datum.reason == null ? 'not known' : datum.reason"
    unknown = both.transform_filter("datum.value == null").transform_calculate(why=why)
    layers.append(unknown.mark_text(style="soft", align="left").encode(x=alt.value(4), text="why:N"))
    return alt.layer(*layers).properties(height=alt.Step(_ROW_STEP))


_TONES = ("gain", "loss", "plain")
