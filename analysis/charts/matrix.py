"""The transfer matrix as a chart: coloured cells that filter, explain themselves and show what was not scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt

from transfergrid.analysis.charts.rows import select
from transfergrid.grid import IN_MIX, Regime

CELLS = "cells"
"""Name of the layer of cells; the keyboard walk of ``page.js`` finds its marks by it."""
ROW_STEP, TALL_ROW_STEP = 18, 28
"""Height of a row in px, where there are many and where there are few."""
FEW = 12
"""Up to so many cells, there is room for the numbers."""
LISTS = [
    "delta_pp",
    "half_pp",
    "base_score",
    "q_value",
    "significant",
    "n_items",
    "n",
    "n_tested",
    "n_gain",
    "n_loss",
    "reason",
    "relation",
]
"""Lists of a view, one entry per (source, target), source by source."""

_HATCH = "M-0.5,0.5L0.5,-0.5M-0.5,0.1L0.1,-0.5M-0.1,0.5L0.5,-0.1"
_SAID = ("trained on", "scored on", "regime", "delta", "interval", "base, adapter", "questions", "n", "test")
_LABEL_GAP, _LETTER = 18, 6
"""Room in px that a row's label takes, and every character of it."""
_NUMBERED = "bandwidth('x') > 36"
_WHOLE = (
    "(regime == 'all' || regime == datum.regime"
    " || (regime == 'all transfer' && datum.regime != 'MT-ML' && datum.regime != 'IN-MIX'))"
    " && (trained_task == 'all' || trained_task == datum.source[0])"
    " && (trained_language == 'all' || trained_language == datum.source[1])"
    " && (scored_task == 'all' || scored_task == datum.target[0])"
    " && (scored_language == 'all' || scored_language == datum.target[1])"
    " && (only == 'all' || datum.is_sure || datum.is_missing)"
)


def matrix_chart(matrix: Mapping[str, Any], level: str) -> alt.LayerChart:
    """Return the chart of a matrix as `matrix_data` makes it, with a select for every filter.

    Args:
        matrix: Sources, targets, views, reasons and the end of the colour scale.
        level: Level of the intervals in words: ``95%``.
    """
    n_targets = len(matrix["targets"])
    steps = (
        alt.Chart()
        .transform_filter("datum.view == model")
        .transform_flatten(LISTS)
        .transform_window(place="row_number()")
        .transform_calculate(
            row=f"floor((datum.place - 1) / {n_targets})",
            column=f"(datum.place - 1) % {n_targets}",
            is_missing="datum.reason != null",
            is_sure="datum.significant == 1",
        )
        .transform_calculate(source="sources[datum.row]", target="targets[datum.column]")
        .transform_calculate(regime=f"datum.relation == null ? {_regime('source', 'target')} : datum.relation")
        .transform_filter(_WHOLE)
        .transform_calculate(**_explanation(level))
    )
    chart = alt.layer(
        *_layers(alt.Chart(), float(matrix["limit_pp"]), max(len(source[1]) for source in matrix["sources"])),
        data=alt.NamedData(name="views"),
    )
    chart.transform = steps.transform  # taken by the layers themselves, every step would copy all of them
    chart = chart.add_params(*_params(matrix)).resolve_scale(color="independent")
    chart = chart.properties(height=alt.Step(ROW_STEP if len(matrix["sources"]) > FEW else TALL_ROW_STEP))
    chart.datasets = {"views": matrix["views"]}  # at the end: every step before copies its data
    return chart


def _regime(source: str, target: str) -> str:
    same = "(datum.{0}[{2}] == datum.{1}[{2}] ? '{3}' : '{4}')"
    return f"{same.format(source, target, 0, 'MT', 'CT')} + {same.format(source, target, 1, '-ML', '-CL')}"


def _explanation(level: str) -> dict[str, str]:
    """Return what is said of a cell, an expression each."""
    low, high = (f"format(datum.delta_pp {sign} datum.half_pp, '+.2f')" for sign in "-+")
    return {
        "trained on": "datum.source[2]",
        "scored on": "datum.target[0] + '-' + datum.target[1]",
        "delta": "datum.is_missing ? 'not scored: ' + reasons[datum.reason] : format(datum.delta_pp, '+.2f') + ' pp'",
        "interval": f"datum.half_pp == null ? 'none' : '{level}: ' + {low} + ' to ' + {high}",
        "base, adapter": "datum.base_score == null ? 'not recorded' : format(datum.base_score, '.3f') + ', ' + "
        "format(datum.base_score + datum.delta_pp / 100, '.3f')",
        "questions": "datum.n_items == null ? 'not recorded' : datum.n_items",
        "n": "datum.n == null ? 'none' : datum.n + ' ' + datum.n_is",
        "test": "datum.n_tested ? datum.n_gain + ' of ' + datum.n_tested + ' models surely gain, ' + datum.n_loss + "
        "' surely lose' : datum.q_value == null ? 'not tested' : "
        "(datum.is_sure ? 'significant' : 'not significant') + ' (q = ' + format(datum.q_value, '.3f') + ')'",
    }


def _axes(along: str) -> dict[str, Any]:
    return {"ticks": False, "domain": False, "labelExpr": f"{along}[datum.value][1]", "labelOverlap": False}


def _layers(cells: alt.Chart, limit: float, longest: int) -> Iterator[alt.Chart]:
    x = alt.X("column:O", title=None).axis(orient="top", labelAngle=0, **_axes("targets"))
    y = alt.Y("row:O", title=None).axis(**_axes("sources"))
    both = cells.encode(x=x, y=y)
    missing, scored = both.transform_filter("datum.is_missing"), both.transform_filter("!datum.is_missing")
    tooltip = [alt.Tooltip(f"{name}:N") for name in _SAID]
    colour = alt.Color("delta_pp:Q", title="delta, pp").scale(
        domain=[-limit, 0, limit], range="diverging", clamp=True, interpolate="rgb"
    )
    legend = alt.Legend(orient="bottom", gradientLength=220, format="+.3~r")
    yield scored.mark_rect().encode(color=colour.legend(legend), tooltip=tooltip).properties(name=CELLS)
    yield missing.mark_point(
        style="hatch", shape=_HATCH, aria=False, size=alt.expr("pow(min(bandwidth('x'), bandwidth('y')), 2)")
    )
    yield missing.mark_rect(fillOpacity=0).encode(tooltip=tooltip).properties(name=f"missing_{CELLS}")
    deep = f"abs(datum.delta_pp) > deep * {limit}"
    for ending, which in (("", f"!({deep})"), ("-deep", deep)):
        part = scored.transform_filter(which)
        numbers = part.mark_text(style=f"number{ending}", aria=False, opacity=alt.expr(f"{_NUMBERED} ? 1 : 0"))
        yield numbers.encode(text=alt.Text("delta_pp:Q", format="+.1f"))
        below = alt.expr(f"{_NUMBERED} ? 7 : 0")
        sure = part.transform_filter("datum.is_sure")
        yield sure.mark_circle(style=f"sure{ending}", size=12, yOffset=below, aria=False)
    yield from _groups(cells, "target", "column", "x")
    yield from _groups(cells, "source", "row", "y", away=_LABEL_GAP + _LETTER * longest)
    walked = both.transform_filter("datum.row == at_row && datum.column == at_column")
    yield walked.mark_rect(style="chosen", aria=False)


def _groups(cells: alt.Chart, end: str, place: str, side: str, *, away: int = 22) -> Iterator[alt.Chart]:
    """Name every task, or kind of source, at its first row or column and set it apart from the one before."""
    first = cells.transform_calculate(task=f"split(datum.{end}[0], '_')").transform_aggregate(
        groupby=["task"], **{place: f"min({place})"}
    )
    at = (alt.X if side == "x" else alt.Y)(f"{place}:O", bandPosition=0)
    yield first.mark_rule(style="border", aria=False).encode(**{side: at})
    other = {"y" if side == "x" else "x": alt.value(-away)}
    kept = {"align": "left", "baseline": "bottom"} if side == "x" else {"align": "right", "baseline": "top", "dy": 4}
    yield first.mark_text(style="head", aria=False, **kept).encode(**{side: at}, **other, text="task:N")


def _params(matrix: Mapping[str, Any]) -> Iterator[alt.Parameter]:
    """Return the selects of the chart, where there is a choice, and the lists that its expressions look names up in."""
    names = [view["name"] for view in matrix["views"]]
    in_mix = [IN_MIX] if any(IN_MIX in view["relation"] for view in matrix["views"]) else []
    choices: dict[str, tuple[str, list[Any], list[str] | None]] = {
        "model": ("Model", list(range(len(names))), names),
        "regime": ("Regime", ["all", "all transfer", *(regime.value for regime in Regime), *in_mix], None),
    }
    for side, word in (("sources", "trained"), ("targets", "scored")):
        for place, part in enumerate(("task", "language")):
            found = ["all", *dict.fromkeys(cell[place] for cell in matrix[side])]
            choices[f"{word}_{part}"] = (f"{word.capitalize()} {part}", found, None)
    is_tested = any(view["significant"] for view in matrix["views"])
    choices["only"] = ("Show", ["all", "sure"][: 1 + is_tested], ["all", "significant only"])
    for name, (label, options, labels) in choices.items():
        chosen = select(name, label, options, labels)
        yield chosen if len(options) > 1 else alt.param(name=name, value=options[0])
    for name in ("sources", "targets", "reasons"):
        yield alt.param(name=name, value=matrix[name])
    for name in ("at_row", "at_column"):
        yield alt.param(name=name, value=-1)
