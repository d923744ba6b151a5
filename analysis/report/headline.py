"""The page's first sentence and the four numbers beside it."""

from __future__ import annotations

from typing import NamedTuple

from transfergrid.analysis.records import ALL_TRANSFER
from transfergrid.analysis.report.numbers import excludes_zero, interval, percent, pp
from transfergrid.analysis.tables.facts import regime_row, seeds_only
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime
from transfergrid.wording import level


class Figure(NamedTuple):
    """One number above the summary."""

    value: str
    label: str
    note: str


def headline(tables: AnalysisTables, settings: AnalysisConfig) -> str:
    """Return the main result as one sentence."""
    row = regime_row(tables.regimes, ALL_TRANSFER)
    own = regime_row(tables.regimes, Regime.MT_ML.value)
    if not row["n"] and not own["n"]:
        return "Nothing was scored, so there is no transfer to report."
    if not row["n"]:
        return (
            f"Training changed the score on its own cell by {pp(own['mean_pp'])} on average; with one cell there is no "
            "transfer to report."
        )
    ends = interval(row, "mean_pp")
    maybe = "" if ends is None or excludes_zero(row) else ", so perhaps not at all"
    return f"Training on one task and language changed the score on the others by {pp(row['mean_pp'])} on average" + (
        f" ({level(settings.confidence)} interval {ends}{maybe})." if ends else "."
    )


def key_figures(tables: AnalysisTables, settings: AnalysisConfig) -> list[Figure]:
    """Return the four numbers a reader looks for first."""
    row = regime_row(tables.regimes, ALL_TRANSFER)
    if not row["n"]:
        return []
    at_level = f"{level(settings.confidence)} interval"

    def note(name: str, form: str) -> str:
        ends = interval(row, name, form)
        return f"{at_level} {ends}" if ends else "no interval: too little to draw from"

    is_true = row["win_rate_true"] is not None
    win, harm = ("win_rate_true", "harm_rate_true") if is_true else ("win_rate", "harm_rate")
    how = "truly " if is_true else "were seen to have "
    tested = row["harm_rate_significant"] is not None
    what = "tests of training noise only" if seeds_only(row) else "tests"
    return [
        Figure(pp(row["mean_pp"]), "mean change of a score", note("mean_pp", "pp")),
        Figure(percent(row[win]), f"of pairs {how}gained", note(win, "percent")),
        Figure(percent(row[harm]), f"{how}lost {-settings.harm_threshold_pp:g} pp or more", note(harm, "percent")),
        Figure(
            f"{percent(row['win_rate_significant'])} / {percent(row['harm_rate_significant'])}"
            if tested
            else "no test",
            "gained / lost significantly",
            f"false discovery rate {level(settings.fdr)}, {row['n_tested']:,} {what}"
            if tested
            else "no standard errors",
        ),
    ]
