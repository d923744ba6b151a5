"""Dots with intervals: donors against recipients, distance against transfer."""

from __future__ import annotations

import altair as alt
import polars as pl

from transfergrid.analysis.charts.rows import chart_rows, select
from transfergrid.analysis.transfer.languages import FEATURE_SETS
from transfergrid.grid import Regime

LANGUAGES, TASKS = f"language, {Regime.MT_CL.value}", f"task, {Regime.CT_ML.value}"
"""The two rankings that say most."""
_MOST_LABELS = 20
_HEIGHT = 360


def roles_chart(roles: pl.DataFrame, level: str, *, shown: str = LANGUAGES) -> alt.LayerChart:
    """Return who helps others (right) and who is helped (up), with intervals or, without them, standard errors.

    Args:
        roles: The table of roles.
        level: Level of the intervals in words: ``95%``.
        shown: The ranking to start with, as ``unit, regime``; the first there is if this has fewer than two names.
    """
    both = role_points(roles)
    sizes = dict(both.group_by("ranking", maintain_order=True).len().iter_rows())
    rankings = [name for name, size in sizes.items() if size > 1]
    first = shown if shown in rankings else next(iter(rankings), shown)
    chart = alt.Chart(chart_rows(both, both.columns)).transform_filter("datum.ranking == ranking")
    tooltip = ["name:N", *(f"{role}:N" for role in ("donor", "recipient")), alt.Tooltip("pairs:N")]
    x, y = (alt.X("donor_pp:Q", title="donor score, pp"), alt.Y("recipient_pp:Q", title="recipient score, pp"))
    points = chart.encode(x=x.scale(zero=False).axis(tickCount=6), y=y.scale(zero=False), tooltip=tooltip)
    spread = points.mark_rule(style="thin", aria=False)
    named = points.transform_joinaggregate(size="count()").transform_filter(f"datum.size <= {_MOST_LABELS}")
    layers = [
        *_zero_lines(),
        spread.transform_filter("datum.donor_low != null").encode(x="donor_low:Q", x2="donor_high:Q"),
        spread.transform_filter("datum.recipient_low != null").encode(y="recipient_low:Q", y2="recipient_high:Q"),
        points.mark_circle(style="dot"),
        named.mark_text(style="label", align="left", dx=7, dy=-6, aria=False).encode(text="name:N"),
    ]
    bars = f"bars: {level} intervals, or standard errors where there is none"
    param = select("ranking", "Show", rankings or [first], value=first)
    return alt.layer(*layers).add_params(param).properties(height=_HEIGHT, title=bars)


def role_points(roles: pl.DataFrame) -> pl.DataFrame:
    """Return one row per (ranking, name) that is donor and recipient, with both scores and what is said of them."""
    everyone = roles.filter(pl.col("models_by") == "all")
    half = pl.when(pl.col("score_pp_low").is_null()).then("se_pp")
    sides = []
    for role in ("donor", "recipient"):
        ranks = pl.format(", rank {} to {}", "rank_low", "rank_high").fill_null("")
        words = pl.format("{} pp{}", pl.col("score_pp").round(2), ranks)
        sides.append(
            everyone.filter(role=role).select(
                "unit",
                "regime",
                "name",
                pl.col("n").alias(f"{role}_n"),
                pl.col("score_pp").alias(f"{role}_pp"),
                pl.coalesce("score_pp_low", pl.col("score_pp") - half).alias(f"{role}_low"),
                pl.coalesce("score_pp_high", pl.col("score_pp") + half).alias(f"{role}_high"),
                pl.concat_str(words, pl.concat_str(pl.lit(", "), "label").fill_null("")).alias(role),
            )
        )
    joined = sides[0].join(sides[1], on=["unit", "regime", "name"], maintain_order="left", validate="1:1")
    return joined.with_columns(
        ranking=pl.format("{}, {}", "unit", "regime"), pairs=pl.format("{} and {}", "donor_n", "recipient_n")
    ).drop("unit", "regime", "donor_n", "recipient_n")


def distance_chart(pairs: pl.DataFrame) -> alt.LayerChart:
    """Return linguistic distance against the mean same-task delta, a dot per ordered pair of languages."""
    distances = {f"{name}_distance": name.replace("_knn", "").replace("_", " ") for name in FEATURE_SETS}
    columns = ["source_language", "target_language", "n", "mean_pp", *distances]
    there = pairs.filter(pl.any_horizontal(pl.col(list(distances)).is_not_null()))
    chart = alt.Chart(chart_rows(there, columns)).transform_filter("datum[features] != null")
    points = chart.transform_calculate(distance="datum[features]").encode(
        x=alt.X("distance:Q", title="distance (URIEL, cosine)").scale(zero=False),
        y=alt.Y("mean_pp:Q", title="mean delta, pp"),
        tooltip=[
            alt.Tooltip("source_language:N", title="trained on"),
            alt.Tooltip("target_language:N", title="scored on"),
            alt.Tooltip("distance:Q", format=".3f"),
            alt.Tooltip("mean_pp:Q", title="mean delta, pp", format="+.2f"),
            alt.Tooltip("n:Q", title="pairs"),
        ],
    )
    param = select("features", "Features", list(distances), list(distances.values()))
    return alt.layer(_zero_lines()[0], points.mark_circle(style="dot")).add_params(param).properties(height=_HEIGHT)


def _zero_lines() -> list[alt.Chart]:
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(style="thin", aria=False)
    return [zero.encode(y="zero:Q"), zero.encode(x="zero:Q")]
