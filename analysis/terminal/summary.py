"""What a person reads first, and any table, for a terminal of 80 to 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from transfergrid.analysis.tables.build import AnalysisTables
from transfergrid.analysis.tables.regimes import SEEDS_ONLY, seeds_only
from transfergrid.analysis.tables.roles import FRAGILE, HUB, why_unlabelled
from transfergrid.analysis.tables.variance import CROSSED, NESTED
from transfergrid.analysis.terminal.table_view import reasons_view
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime
from transfergrid.wording import level

_TOP = 3


def summary(tables: AnalysisTables, settings: AnalysisConfig) -> RenderableType:
    """Return regimes, donors and recipients, variance and agreement, and what is and is not significant."""
    parts: list[RenderableType] = [
        _regimes(tables.regimes, settings),
        Text("\n".join([_significance(tables.regimes), *_noise_floor(tables.single_source), ""])),
        _roles(tables.roles),
        Text("\n".join([*_labels(tables.roles), ""])),
        Text("\n".join([*_variance(tables.variance), *_agreement(tables.consistency), *_distance(tables.distance)])),
        Text("\n".join(_missing(tables))),
    ]
    return Group(*parts)


def _grid(columns: Sequence[str], n_left: int = 1, *, no_wrap: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < n_left else "right", no_wrap=no_wrap or place == 0)
    return table


def _regimes(regimes: pl.DataFrame, settings: AnalysisConfig) -> RenderableType:
    interval = f"{level(settings.confidence)} interval"
    view = _grid(["regime", "n", "mean pp", interval, "median", "win %", "harm %", "sig.\nharm %"], no_wrap=True)
    for row in regimes.filter(pl.col("by") == "all").iter_rows(named=True):
        ends = None if row["mean_pp_low"] is None else f"{row['mean_pp_low']:+.2f} .. {row['mean_pp_high']:+.2f}"
        view.add_row(
            row["regime"],
            f"{row['n']:,}",
            format_pp(row["mean_pp"]),
            ends or "-",
            format_pp(row["median_pp"]),
            _percent(row["win_rate"]),
            _percent(row["harm_rate"]),
            _percent(row["harm_rate_significant"]),
        )
    first = regimes.filter(pl.col("by") == "all").row(0, named=True)
    note = (
        f"harm: delta <= {settings.harm_threshold_pp:g} pp; sig.: for sure, Benjamini-Hochberg q <= {settings.fdr:g} "
        f"over the whole table; intervals: cluster bootstrap of {first['resampled'] or 'nothing'}, "
        f"{settings.bootstrap_resamples} resamples, seed {settings.seed}"
    )
    return Group(view, Text("\n".join([note, *_regime_reasons(regimes)])))


def _regime_reasons(regimes: pl.DataFrame) -> list[str]:
    known = regimes.filter((pl.col("by") == "all") & pl.col("reason").is_not_null())
    by_reason = known.group_by("reason", maintain_order=True).agg("regime")
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.iter_rows()]


def _items(n: int) -> str:
    return f"{n} item" if n == 1 else f"{n} items"


def _significance(regimes: pl.DataFrame) -> str:
    row = regimes.filter(pl.col("by") == "all").row(0, named=True)
    if not row["n"]:
        return str(row["reason"])
    parts = []
    if row["harm_threshold_items"] is not None:
        parts.append(f"the harm cut is {_items(row['harm_threshold_items'])} of a target")
    if row["median_se_pp"] is not None:
        parts.append(f"the median standard error of a delta is {row['median_se_pp']:.2f} pp")
    if row["harm_rate_by_chance"] is not None:
        parts.append(f"with no effect anywhere, {row['harm_rate_by_chance']:.1%} of deltas would count as harm")
    if seeds_only(row):
        parts.append(f"how many would count as harm by chance is not known, since {SEEDS_ONLY}")
    if row["harm_rate_significant"] is None:
        parts.append("no test: the table has no standard errors")
    else:
        parts.append(
            f"{row['harm_rate']:.1%} of transfer rows harm nominally, "
            f"{row['harm_rate_significant']:.1%} significantly; "
            f"{row['win_rate']:.1%} win nominally, {row['win_rate_significant']:.1%} significantly"
            + (" (t tests of imported tables contain training noise only and find too much)" if seeds_only(row) else "")
        )
    return "Significance: " + "; ".join(parts) + "."


def _noise_floor(transfer: pl.DataFrame) -> list[str]:
    """Say how many of the base's answers hang on rounding; nothing where that was not measured."""
    floor = (
        transfer.filter(pl.col("n_flips_noise_floor").is_not_null())
        .group_by("model", "target_task", "target_language")
        .agg(n_flips=pl.max("n_flips_noise_floor"), n_items=pl.max("n_items"))
    )
    if floor.is_empty():
        return []
    n_flips, n_items, most = floor.select(pl.sum("n_flips"), pl.sum("n_items"), pl.max("n_flips").alias("most")).row(0)
    worst = f", at most {most:,} in one target" if most else ""
    return [
        f"Noise floor: {n_flips:,} of {n_items:,} answers of the base change with the order of the arithmetic{worst}."
    ]


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
    return Group(view, Text("score in pp (ranks its bootstrap interval covers); all of them: 'grid analyze hierarchy'"))


def _names(part: pl.DataFrame) -> str:
    return "\n".join(_name(row) for row in part.iter_rows(named=True))


def _name(row: Mapping[str, Any]) -> str:
    ranks = "" if row["rank_low"] is None else f" ({row['rank_low']}-{row['rank_high']})"
    return f"{row['name']} {row['score_pp']:+.2f}{ranks}"


def _labels(roles: pl.DataFrame) -> list[str]:
    lines = []
    for label, role, what in (
        (HUB, "donor", "Hubs (donor score above the mean of its kind, whole interval)"),
        (FRAGILE, "recipient", "Fragile recipients (harm rate above the mean of its kind, whole interval)"),
    ):
        if why := why_unlabelled(roles, role):
            lines.append(f"{what}: not known, since there is {why}.")
            continue
        found = roles.filter(pl.col("label") == label).sort("unit", "regime", "rank")
        others = found.filter(pl.col("unit") != "cell").select("name", "regime")
        names = [f"{name} [{regime}]" for name, regime in others.iter_rows()]
        n_cells = found.filter(pl.col("unit") == "cell")["name"].n_unique()
        listed = ", ".join([*names, *([f"{n_cells} cells"] if n_cells else [])])
        lines.append(f"{what}: {listed or 'none'}.")
    return lines


def _variance(variance: pl.DataFrame) -> list[str]:
    lines = []
    for fit in (NESTED, CROSSED):
        part = variance.filter((pl.col("fit") == fit) & (pl.col("regime") == Regime.MT_CL.value))
        known = part.filter(pl.col("share").is_not_null())
        shares = ", ".join(f"{row['component']} {row['share']:.1%}" for row in known.iter_rows(named=True))
        missing = part.filter(pl.col("share").is_null())
        reasons = "; ".join(
            row["reason"] if row["component"] == "all" else f"{row['component']}: {row['reason']}"
            for row in missing.iter_rows(named=True)
        )
        lines.append(f"Variance of MT-CL, {fit}: {'; '.join(each for each in (shares, reasons) if each)}.")
    return lines


def _agreement(consistency: pl.DataFrame) -> list[str]:
    part = consistency.filter(pl.col("unit") == "model")
    shown = [
        f"{row['regime']} {row['median']:.2f}" if row["median"] is not None else f"{row['regime']}: {row['reason']}"
        for row in part.iter_rows(named=True)
    ]
    return [f"Consistency Index between models (median tau-b): {', '.join(shown) or 'no transfer rows'}."]


def _distance(distance: pl.DataFrame) -> list[str]:
    lines = []
    for row in distance.filter(pl.col("method") == "spearman").iter_rows(named=True):
        name = row["features"].removesuffix("_knn")
        if row["correlation"] is None:
            lines.append(f"Distance ({name}): {row['reason']}.")
        else:
            lines.append(
                f"Distance ({name}) and MT-CL delta: Spearman {row['correlation']:+.3f}, "
                f"Mantel p {row['mantel_p']:.3g} "
                f"(naive p {row['naive_p']:.3g}: language pairs are not independent)."
            )
    return lines


def _missing(tables: AnalysisTables) -> list[str]:
    if tables.missing.is_empty():
        return []
    return [f"Missing: {line}" for line in reasons_view(tables.missing)]


def format_pp(value: float | None) -> str:
    """Return a number of percentage points with its sign; ``-`` for none."""
    return "-" if value is None else f"{value:+.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
