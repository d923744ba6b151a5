"""What to train on for which target, and what to avoid: the page's first lines."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from transfergrid.analysis.records import TARGET, cell_name
from transfergrid.analysis.report.numbers import NBSP, interval, pp
from transfergrid.analysis.tables.recommendation import HIGH_HARM, LIKELY_HELP
from transfergrid.config.settings import AnalysisConfig
from transfergrid.wording import count, level

SURE = 0.95
"""A source with this probability of help is called sure."""


class Answer(NamedTuple):
    """The advice of a run."""

    headline: str
    """The best bet, one sentence; empty where there is no transfer."""
    sentences: tuple[str, ...]
    rows: list[dict[str, Any]]
    """One row per target: its best source and the one that harms it most, where there are such."""


def answer(recommendations: pl.DataFrame, settings: AnalysisConfig) -> Answer:
    """Return what to train on and what to avoid."""
    if recommendations.is_empty():
        return Answer("", (), [])
    named = recommendations.with_columns(source=cell_name("source"), target=cell_name("target"))
    named = named.sort("estimate_pp", *TARGET, "source", descending=[True, False, False, False], nulls_last=True)
    if named["p_help"].null_count() == named.height:
        why = next(iter(named["reason"].drop_nulls()), "too little to draw from")
        return Answer(f"What to train on is not known: {why}.", (), [])
    best = named.filter(pl.col("p_help") > LIKELY_HELP).unique("target", keep="first", maintain_order=True)
    worst = named.filter(pl.col("p_harm") > HIGH_HARM).unique("target", keep="last", maintain_order=True)
    targets = named["target"].unique().sort().to_list()
    helps, harms = ({row["target"]: _said(row) for row in part.iter_rows(named=True)} for part in (best, worst))
    rows = [{"target": target, "best": helps.get(target), "worst": harms.get(target)} for target in targets]
    sentences = (*_help(best, len(targets)), *_harm(worst, len(targets), settings))
    return Answer(_headline(best), sentences, rows)


def _said(row: dict[str, Any]) -> dict[str, Any]:
    ends = interval({"pp_low": row["low_pp"], "pp_high": row["high_pp"]}, "pp")
    return {**row, "interval": ends, "help": _chance(row["p_help"]), "harm": _chance(row["p_harm"])}


def _chance(value: float) -> str:
    """Return a probability without claiming certainty."""
    return "over 99%" if value > 0.99 else "under 1%" if value < 0.01 else f"{value:.0%}"


def _headline(best: pl.DataFrame) -> str:
    if best.is_empty():
        return "No source is more likely to help any target than not."
    row = best.row(0, named=True)
    bet = f"{row['source']} for {row['target']}, {pp(row['estimate_pp'])}"
    chance = f"probability of help {_chance(row['p_help'])}"
    return (
        f"Train on {bet} ({chance})." if row["p_help"] >= SURE else f"No choice is sure; the best is {bet} ({chance})."
    )


def _help(best: pl.DataFrame, n_targets: int) -> list[str]:
    n_sure = best.filter(pl.col("p_help") >= SURE).height
    verb = "has" if best.height == 1 else "have"
    said = [f"{best.height} of {count(n_targets, 'target')} {verb} a source that is more likely to help than not."]
    if best.height:
        said.append(f"For {n_sure} of them the probability is {level(SURE)} or more.")
        name, number = best["source"].value_counts(sort=True).sort("count", "source", descending=[True, False]).row(0)
        if number > 1:
            said.append(f"Most often the best is {name}, for {count(number, 'target')}.")
    return said


def _harm(worst: pl.DataFrame, n_targets: int, settings: AnalysisConfig) -> list[str]:
    cut = f"{-settings.harm_threshold_pp:g}{NBSP}pp"
    if worst.is_empty():
        return [f"No source probably costs a target {cut} or more."]
    row = worst.row(-1, named=True)
    return [
        f"{worst.height} of {count(n_targets, 'target')} have a source that probably costs {cut} or more.",
        f"Avoid most of all {row['source']} for {row['target']}: {pp(row['estimate_pp'])}, probability of harm "
        f"{_chance(row['p_harm'])}.",
    ]
