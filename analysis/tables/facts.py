"""Facts that the tables show; the terminal's summary and the report put the same ones into words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from transfergrid.analysis.records import ALL_TRANSFER
from transfergrid.analysis.tables.roles import FRAGILE, HUB, why_unlabelled
from transfergrid.grid import CELL_KIND, Regime
from transfergrid.store.imported import SE_OF_SEEDS
from transfergrid.wording import count


class Labelled(NamedTuple):
    """Units that have a label."""

    label: str
    role: str
    unknown: str | None
    """Why no unit could get the label, ``one source`` or ``one target``; None: some could."""
    units: tuple[tuple[str, str, float], ...]
    """Name, regime and score in pp of every labelled language, language family and task."""
    n_cells: int
    """Labelled cells."""


class VarianceShares(NamedTuple):
    """Shares of the variance of MT-CL deltas in one fit."""

    shares: tuple[tuple[str, float, float | None], ...]
    """Component, share, and share without noise of items (None: not known), in the order of the fit."""
    reasons: tuple[str, ...]
    """Why a component, or the whole fit, has none."""


def regime_row(regimes: pl.DataFrame, regime: str) -> dict[str, Any]:
    """Return the row of a whole regime."""
    return regimes.filter(regime=regime, by="all").row(0, named=True)


def seeds_only(row: Mapping[str, Any]) -> bool:
    """Return whether a row of the regime table rests on standard errors that are across seeds only."""
    return SE_OF_SEEDS in (row["se_origin"] or "").split(", ")


def n_significant(row: Mapping[str, Any], what: str) -> int:
    """Return the pairs of a row of the regime table that were surely harmed (``harm``) or surely gained (``win``)."""
    n: int = round((row[f"{what}_rate_significant"] or 0.0) * row["n_tested"])
    return n


def is_mostly_noise(row: Mapping[str, Any]) -> bool:
    """Return whether less than half of all gains and harms of a row of the regime table are significant."""
    significant = (row["harm_rate_significant"] or 0.0) + (row["win_rate_significant"] or 0.0)
    return bool(significant < 0.5 * ((row["win_rate"] or 0.0) + (row["harm_rate"] or 0.0)))


def harm_is_mostly_chance(row: Mapping[str, Any]) -> bool:
    """Return whether chance alone would give half of the harm, and the tests find no more than chance does."""
    chance, harm = row["harm_rate_by_chance"] or 0.0, row["harm_rate"] or 0.0
    return harm > 0 and chance >= harm / 2 >= (row["harm_rate_significant"] or 0.0)


def graded_transfer(row: dict[str, Any]) -> str | None:
    """Return what the finer metric shows beside accuracy, in a row of the regime table; None: no pair has it."""
    if not row["n_graded"]:
        return None
    gained, lost, gained_acc, lost_acc = (
        f"{round((row[f'{metric}{sign}_rate_significant'] or 0.0) * row[n]):,}"
        for metric, n in (("graded_", "n_graded"), ("", "n_tested"))
        for sign in ("win", "loss")
    )
    low, high = row["graded_mean_pp_low"], row["graded_mean_pp_high"]
    of_all = "" if row["n_tested"] <= row["n_graded"] else f" of all {row['n_tested']:,}"
    ends = "" if low is None else f" ({low:+.2f} to {high:+.2f})"
    return (
        "the probability of the right choice, with the adapter as sure of itself as the base, changes by "
        f"{row['graded_mean_pp']:+.2f} pp on average{ends} over {count(row['n_graded'], 'pair')}; by it {gained} pairs "
        f"gain and {lost} lose significantly, by right and wrong {gained_acc} and {lost_acc}{of_all}."
    )


def labelled(roles: pl.DataFrame, label: str) -> Labelled:
    """Return who has a label, `HUB` or `FRAGILE`."""
    role = {HUB: "donor", FRAGILE: "recipient"}[label]
    found = roles.filter(models_by="all", label=label).sort("unit", "regime", "rank")
    is_cell = pl.col("unit") == "cell"
    units = tuple(found.filter(~is_cell).select("name", "regime", "score_pp").iter_rows())
    return Labelled(label, role, why_unlabelled(roles, role), units, found.filter(is_cell)["name"].n_unique())


def variance_shares(variance: pl.DataFrame, fit: str) -> VarianceShares:
    """Return the shares of one fit in MT-CL."""
    part = variance.filter(fit=fit, regime=Regime.MT_CL.value)
    shares = part.filter(pl.col("share").is_not_null()).select("component", "share", "share_true").iter_rows()
    missing = part.filter(pl.col("share").is_null()).select("component", "reason").iter_rows()
    reasons = tuple(reason if name == "all" else f"{name}: {reason}" for name, reason in missing)
    return VarianceShares(tuple(shares), reasons)


def agreement(consistency: pl.DataFrame) -> list[tuple[str, float | None, str | None]]:
    """Return regime, median Consistency Index between models, and why there is none."""
    return consistency.filter(unit="model").select("regime", "median", "reason").rows()


def distance_correlations(distance: pl.DataFrame) -> list[dict[str, Any]]:
    """Return every rank correlation of distance and MT-CL delta; ``features`` is short, such as ``syntax``."""
    short = pl.col("features").str.strip_suffix("_knn")
    return distance.filter(method="spearman").with_columns(short).to_dicts()


def missing_reasons(table: pl.DataFrame, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent reasons of a table's rows, each with its number of rows."""
    counts = table["reason"].drop_nulls().value_counts(sort=True).sort("count", "reason", descending=[True, False])
    return counts.head(limit).rows()


SHOWN_COMPARISONS = 6
"""Lines of one question; the others stand in the table."""


def comparisons(mixtures: pl.DataFrame, merges: pl.DataFrame, variants: pl.DataFrame) -> dict[str, list[str]]:
    """Return what mixtures, merges and variants do, a line for every mean, by question; none without such sources.

    Of a variant's regimes: all transfer, a source's own cell, and those that it surely changes.
    """
    surely = (pl.col("minus_main_pp_low") > 0) | (pl.col("minus_main_pp_high") < 0)
    told = variants.filter(pl.col("regime").is_in([ALL_TRANSFER, Regime.MT_ML.value]) | surely)
    asked = (
        ("Do cells add up?", mixtures.filter(pl.col("target_task").is_null()), "delta_pp", _adds),
        (
            "Does merging equal training together?",
            merges.filter(pl.col("target_task").is_null()),
            "minus_together_pp",
            _equals,
        ),
        ("What does another recipe change?", told, "minus_main_pp", _changes),
    )
    found = {}
    for question, table, needed, line in asked:
        rows = table.drop_nulls(needed)
        several = rows["model"].n_unique() > 1
        lines = [line(row) + (f" [{row['model']}]" if several else "") for row in rows.iter_rows(named=True)]
        more = [f"{len(lines) - SHOWN_COMPARISONS} more stand in its table"] if len(lines) > SHOWN_COMPARISONS else []
        if lines:
            found[question] = [*lines[:SHOWN_COMPARISONS], *more]
    return found


def _adds(row: dict[str, Any]) -> str:
    of_mean, of_sum = _told(row, "minus_mean_pp"), _told(row, "minus_sum_pp")
    return (
        f"Trained together, {row['regime']}: {row['delta_pp']:+.2f} pp, {of_mean} against the parts' mean, {of_sum} "
        f"against their sum: {_how_they_add(_side(row, 'minus_mean_pp'), _side(row, 'minus_sum_pp'))}"
    )


def _how_they_add(mean: int | None, total: int | None) -> str:
    """Return what the sides of the parts' mean and sum that a mixture's delta surely lies on say together."""
    if mean is None or total is None:
        return "not known"
    if mean < 0:
        return "they interfere"
    if mean == 0:
        return "they average" if total else "whether they add up or average cannot be told"
    return ("more than their mean, less than their sum", "they add up", "more than their sum")[total + 1]


def _equals(row: dict[str, Any]) -> str:
    told, method = _told(row, "minus_together_pp"), row["method"] or "a method not recorded"
    verdict = _verdict(row, "minus_together_pp")
    return f"Merged by {method}, {row['regime']}: {told} against training together{verdict}"


def _changes(row: dict[str, Any]) -> str:
    of = "" if row["of"] == CELL_KIND else f" of {row['of']}s"
    costs = [row[name] for name in ("n_weights", "main_n_weights", "train_s", "main_train_s")]
    told_here = row["regime"] == ALL_TRANSFER and None not in costs
    cost = "; {:,} weights for {:,}, {:.0f} s of training for {:.0f}".format(*costs) if told_here else ""
    told, verdict = _told(row, "minus_main_pp"), _verdict(row, "minus_main_pp")
    return f"Variant {row['variant']}{of}: {told} against the main recipe in {row['regime']}{verdict}{cost}"


def _told(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "not known"
    ends = "no interval" if row[f"{name}_low"] is None else f"{row[f'{name}_low']:+.2f} to {row[f'{name}_high']:+.2f}"
    return f"{row[name]:+.2f} pp ({ends})"


def _side(row: dict[str, Any], name: str) -> int | None:
    """Return where an interval lies: above 0 (1), below it (-1) or around it (0); None: there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return None if low is None else int(low > 0) - int(high < 0)


def _verdict(row: dict[str, Any], name: str) -> str:
    return ", no difference that can be told" if _side(row, name) == 0 else ""
