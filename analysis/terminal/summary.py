"""The summary of a run for a terminal of 80 to 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from transfergrid.analysis.graded.learnt import taught
from transfergrid.analysis.records import ALL_TRANSFER, TARGET
from transfergrid.analysis.tables.facts import (
    agreement,
    comparisons,
    distance_correlations,
    graded_transfer,
    labelled,
    regime_row,
    seeds_only,
    variance_shares,
)
from transfergrid.analysis.tables.regimes import REGIMES, SEEDS_ONLY
from transfergrid.analysis.tables.roles import FRAGILE, HUB
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.analysis.tables.variance import CROSSED, NESTED
from transfergrid.analysis.terminal.plain_table import plain_table
from transfergrid.analysis.terminal.table_view import reasons_view
from transfergrid.analysis.transfer.remarks import remark_lines
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime
from transfergrid.wording import count, level

_TOP = 3


def summary(tables: AnalysisTables, settings: AnalysisConfig) -> RenderableType:
    """Return regimes, donors and recipients, variance and agreement, and what is and is not significant."""
    learnt = [
        f"Learnt{f' under {name}' if name else ''}: {text}"
        for name, text in taught(tables.single_source, tables.transfer, settings).items()
    ]
    missing = [f"Missing: {line}" for line in reasons_view(tables.missing)]
    parts: list[RenderableType] = [
        _regimes(tables.regimes, settings),
        Text("\n".join([*_significance(tables.regimes), *learnt])),
        Text("\n".join([*noise_floor_lines(tables.single_source), ""])),
        _roles(tables.roles),
        Text("\n".join([*_labels(tables.roles), ""])),
        Text("\n".join([*_variance(tables.variance), *_agreement(tables.consistency), *_distance(tables.distance)])),
        *_comparisons(tables),
        Text("\n".join([*missing, *(f"Remark: {line}." for line in remark_lines(tables.transfer))])),
    ]
    return Group(*parts)


def _grid(columns: Sequence[str], n_left: int = 1, *, no_wrap: bool = False) -> Table:
    table = plain_table()
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < n_left else "right", no_wrap=no_wrap or place == 0)
    return table


def _regimes(regimes: pl.DataFrame, settings: AnalysisConfig) -> RenderableType:
    interval = f"{level(settings.confidence)} interval"
    view = _grid(
        ["regime", "n", "mean pp", interval, "true\nwin %", "true\nharm %", "seen\nwin %", "seen\nharm %"], no_wrap=True
    )
    for row in regimes.filter(pl.col("by") == "all").iter_rows(named=True):
        ends = None if row["mean_pp_low"] is None else f"{row['mean_pp_low']:+.2f} .. {row['mean_pp_high']:+.2f}"
        view.add_row(
            row["regime"],
            f"{row['n']:,}",
            format_pp(row["mean_pp"]),
            ends or "-",
            *(_percent(row[name]) for name in ("win_rate_true", "harm_rate_true", "win_rate", "harm_rate")),
        )
    first = regime_row(regimes, ALL_TRANSFER)
    note = (
        f"win: delta > 0; harm: delta <= {settings.harm_threshold_pp:g} pp; true: share of the true deltas; "
        "seen: of the observed ones, the published definition, noise included; interval: of the mean, over "
        f"{first['resampled'] or 'nothing'} like these"
    )
    return Group(view, Text("\n".join([note, REGIMES.approximate, *_regime_reasons(regimes)])))


def _regime_reasons(regimes: pl.DataFrame) -> list[str]:
    known = regimes.filter((pl.col("by") == "all") & pl.col("reason").is_not_null())
    by_reason = known.group_by("reason", maintain_order=True).agg("regime")
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.iter_rows()]


def _significance(regimes: pl.DataFrame) -> list[str]:
    row = regime_row(regimes, ALL_TRANSFER)
    if not row["n"]:
        return [str(row["reason"])]
    parts = []
    if row["harm_rate_true"] is not None:
        win, harm = (
            f"{row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%}" for name in ("win_rate_true", "harm_rate_true")
        )
        parts.append(
            f"{row['win_rate_true']:.1%} of pairs truly win ({win}) and {row['harm_rate_true']:.1%} truly harm ({harm})"
        )
    if row["harm_threshold_items"] is not None:
        parts.append(f"the harm cut is {count(row['harm_threshold_items'], 'item')} of a target")
    if row["median_se_pp"] is not None:
        parts.append(
            f"the median standard error of a delta is {row['median_se_pp']:.2f} pp (pairs without a changed answer "
            "left out)"
        )
    if row["harm_rate_by_chance"] is not None:
        parts.append(f"with no effect anywhere, {row['harm_rate_by_chance']:.1%} of deltas would count as harm")
    if seeds_only(row):
        parts.append(f"how many would count as harm by chance is not known, since {SEEDS_ONLY}")
    if row["harm_rate_significant"] is None:
        parts.append("no test: the table has no standard errors")
    else:
        parts.append(
            f"by the published definition, noise included, {row['win_rate']:.1%} win and {row['harm_rate']:.1%} harm; "
            f"{row['win_rate_significant']:.1%} win and {row['harm_rate_significant']:.1%} harm for "
            f"sure (Benjamini-Hochberg q <= {row['fdr']:g} over the whole table)"
            + (" (t tests of imported tables contain training noise only and find too much)" if seeds_only(row) else "")
        )
    graded = graded_transfer(row)
    return [f"Significance: {'; '.join(parts)}.", *([] if graded is None else [f"Graded transfer: {graded}"])]


def noise_floor_lines(transfer: pl.DataFrame) -> list[str]:
    """Return how many of the base's answers depend on rounding; nothing if that was not measured."""
    measured = transfer.drop_nulls("n_flips_noise_floor").group_by("model", *TARGET)
    floor = measured.agg(pl.max("n_flips_noise_floor", "n_items")).select("n_flips_noise_floor", "n_items")
    if floor.is_empty():
        return []
    n_flips, n_items, most = floor.select(pl.all().sum(), pl.max("n_flips_noise_floor").alias("most")).row(0)
    worst = f", at most {most:,} in one target" if most else ""
    what = "answers of the base change with the order of the arithmetic"
    return [f"Noise floor: {n_flips:,} of {n_items:,} {what}{worst}."]


def _roles(roles: pl.DataFrame) -> RenderableType:
    view = _grid(["role", "best", "worst"], n_left=3)
    for unit, regime in (("language", Regime.MT_CL), ("task", Regime.CT_ML), ("cell", Regime.CT_CL)):
        for role in ("donor", "recipient"):
            part = roles.filter(role=role, unit=unit, regime=regime.value, models_by="all").sort("rank", "name")
            if part.height:
                n_shown = min(_TOP, (part.height + 1) // 2)
                best, worst = part.head(n_shown), part.tail(min(n_shown, part.height - n_shown)).reverse()
                view.add_row(
                    f"{role}\n{unit}\n{regime.value}", Text(_names(best)), Text(_names(worst)), end_section=True
                )
    return Group(
        view, Text("score in pp (ranks it may have, all units together); all of them: 'grid analyze hierarchy'")
    )


def _names(part: pl.DataFrame) -> str:
    lines = []
    for row in part.iter_rows(named=True):
        ranks = "" if row["rank_low"] is None else f" ({row['rank_low']}-{row['rank_high']})"
        lines.append(f"{row['name']} {row['score_pp']:+.2f}{ranks}")
    return "\n".join(lines)


def _labels(roles: pl.DataFrame) -> list[str]:
    lines = []
    for label, what in (
        (HUB, "Hubs (donor score surely above the mean of its kind)"),
        (FRAGILE, "Fragile recipients (recipient score surely below the mean of its kind)"),
    ):
        fact = labelled(roles, label)
        names = [f"{name} [{regime}]" for name, regime, _ in fact.units]
        listed = ", ".join([*names, *([f"{fact.n_cells} cells"] if fact.n_cells else [])])
        why = f"not known, since there is {fact.unknown}" if fact.unknown else listed or "none"
        lines.append(f"{what}: {why}.")
    return lines


def _variance(variance: pl.DataFrame) -> list[str]:
    lines = []
    for fit in (NESTED, CROSSED):
        fact = variance_shares(variance, fit)
        shares = ", ".join(
            f"{component} {share:.1%}" + ("" if true is None else f" ({true:.1%} without noise of items)")
            for component, share, true in fact.shares
        )
        said = "; ".join(each for each in (shares, *fact.reasons) if each)
        lines.append(f"Variance of MT-CL, {fit}: {said}.")
    return lines


def _agreement(consistency: pl.DataFrame) -> list[str]:
    shown = [
        f"{regime} {median:.2f}" if median is not None else f"{regime}: {reason}"
        for regime, median, reason in agreement(consistency)
    ]
    return [f"Consistency Index between models (median tau-b): {', '.join(shown) or 'no transfer rows'}."]


def _distance(distance: pl.DataFrame) -> list[str]:
    lines = []
    for row in distance_correlations(distance):
        if row["correlation"] is None:
            lines.append(f"Distance ({row['features']}): {row['reason']}.")
        else:
            lines.append(
                f"Distance ({row['features']}) and MT-CL delta: Spearman {row['correlation']:+.3f}, "
                f"Mantel p {row['mantel_p']:.3g} "
                f"(naive p {row['naive_p']:.3g}: language pairs are not independent)."
            )
    return lines


def _comparisons(tables: AnalysisTables) -> list[RenderableType]:
    """Return what mixtures, merges and variants do on average; nothing without such sources."""
    found = comparisons(tables.mixtures, tables.merges, tables.variants)
    return [Text("\n".join(["", name, *(f"  {line}" for line in lines)])) for name, lines in found.items()]


def format_pp(value: float | None) -> str:
    """Return a number of percentage points with its sign; ``-`` for none."""
    return "-" if value is None else f"{value:+.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
