"""The page's first screen: what was measured, how surely and at what risk, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from transfergrid.analysis.records import ALL_TRANSFER
from transfergrid.analysis.tables.build import AnalysisTables
from transfergrid.analysis.tables.regimes import SEEDS_ONLY, seeds_only
from transfergrid.analysis.tables.roles import HUB, why_unlabelled
from transfergrid.analysis.tables.variance import CROSSED, NESTED, RESIDUAL
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import TRANSFER_REGIMES, Regime
from transfergrid.wording import count, level

NBSP = "\u00a0"
"""Keeps a number and its unit on one line."""

REGIME_WORDS = {
    Regime.MT_ML: "same task, same language",
    Regime.MT_CL: "same task, other language",
    Regime.CT_ML: "other task, same language",
    Regime.CT_CL: "other task, other language",
}
"""What source and target share."""

_SHOWN_NAMES = 12
_VERBS = {
    "donor": ("helps the others most", "harms the others least"),
    "recipient": ("is helped most", "is harmed least"),
}
"""What the first of a ranking does where its score is above 0, and where it is not."""


class Finding(NamedTuple):
    """A paragraph of the summary."""

    lead: str
    text: str


class Figure(NamedTuple):
    """One number above the summary."""

    value: str
    label: str
    note: str


def headline(tables: AnalysisTables, settings: AnalysisConfig) -> str:
    """Return the one sentence that says what came out."""
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
    maybe = "" if ends is None or _excludes_zero(row) else ", so perhaps not at all"
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
        return f"{at_level} {ends}" if ends else "no interval: too little to resample"

    tested = row["harm_rate_significant"] is not None
    what = "tests of training noise only" if seeds_only(row) else "tests"
    return [
        Figure(pp(row["mean_pp"]), "mean change of a score", note("mean_pp", "pp")),
        Figure(percent(row["win_rate"]), "of pairs gained", note("win_rate", "percent")),
        Figure(
            percent(row["harm_rate"]), f"lost {-settings.harm_threshold_pp:g} pp or more", note("harm_rate", "percent")
        ),
        Figure(
            f"{percent(row['win_rate_significant'])} / {percent(row['loss_rate_significant'])}"
            if tested
            else "no test",
            "gained / lost significantly",
            f"false discovery rate {level(settings.fdr)}, {row['n_tested']:,} {what}"
            if tested
            else "no standard errors",
        ),
    ]


def findings(tables: AnalysisTables, settings: AnalysisConfig) -> list[Finding]:
    """Return the summary's paragraphs; one whose numbers are not there says why."""
    row = regime_row(tables.regimes, ALL_TRANSFER)
    found = [Finding("What was measured.", _measured(tables.single_source))]
    if row["n"]:
        found += [
            Finding("Does it carry over?", _carries_over(tables.regimes, settings)),
            Finding("How surely?", _surely(row, tables.single_source, settings)),
            Finding("At what risk?", _risk(row, settings)),
            Finding("Who helps, who is helped?", _roles(tables.roles)),
            Finding("Where do the differences come from?", _variance(tables.variance)),
            Finding("Do models agree?", _agreement(tables.consistency)),
            Finding("Does distance matter?", _distance(tables.distance)),
        ]
    if missing := _missing(tables):
        found.append(Finding("What is missing?", missing))
    return found


def regime_row(regimes: pl.DataFrame, regime: str) -> dict[str, Any]:
    """Return the row of a whole regime."""
    return regimes.filter(regime=regime, by="all").row(0, named=True)


def pp(value: float) -> str:
    """Return percentage points with their sign: ``+1.25 pp``."""
    return f"{round(value, 2) + 0.0:+.2f}{NBSP}pp".replace("-", "−")


def percent(value: float) -> str:
    """Return a rate in 0..1 as percent with one digit."""
    return f"{100 * value:.1f}%"


def interval(row: Mapping[str, Any], name: str, form: str = "pp") -> str | None:
    """Return ``low to high``; None where there is no interval."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None:
        return None
    if form == "percent":
        return f"{100 * low:.1f} to {100 * high:.1f}%"
    return f"{low:+.2f} to {high:+.2f}".replace("-", "−")


def _excludes_zero(row: Mapping[str, Any]) -> bool:
    return bool(row["mean_pp_low"] > 0 or row["mean_pp_high"] < 0)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return shown if len(names) <= _SHOWN_NAMES else f"{shown} and {len(names) - _SHOWN_NAMES} more"


def _measured(rows: pl.DataFrame) -> str:
    there = rows.filter(pl.col("delta_pp").is_not_null())
    transfer = rows if there.is_empty() else there
    models, tasks, languages = (
        transfer[name].unique().sort().to_list() for name in ("model", "target_task", "target_language")
    )
    n_sources = transfer.select("source_task", "source_language").n_unique()
    n_targets = transfer.select("target_task", "target_language").n_unique()
    seeds = transfer["n_seeds"].max()
    repeated = f", with {count(seeds, 'training seed')}" if isinstance(seeds, int) and seeds > 1 else ""
    grid = (
        f"A cell is one task in one language, here {count(len(tasks), 'task')} ({_listed(tasks)}) in "
        f"{count(len(languages), 'language')} ({_listed(languages)})."
    )
    training = (
        f"For {count(n_sources, 'cell')}, a small add-on to the base model (a LoRA adapter) was trained on that cell "
        f"alone{repeated}, for {count(len(models), 'model')} ({_listed(models)})."
    )
    scoring = (
        "Every adapter then answered the same multiple-choice questions as the untouched base model, on "
        f"{count(n_targets, 'cell')}. The delta of a pair is the adapter's score minus the base's, in percentage "
        "points (pp): above 0 the training helped there, below 0 it hurt. An adapter on its own cell (MT-ML) is not "
        "transfer and is kept out of the numbers below."
    )
    return f"{grid} {training} {scoring}"


def _carries_over(regimes: pl.DataFrame, settings: AnalysisConfig) -> str:
    row = regime_row(regimes, ALL_TRANSFER)
    text = f"Over {count(row['n'], 'pair')} the mean delta is {pp(row['mean_pp'])}"
    if row["mean_pp_low"] is None:
        text += f"; no interval: {row['reason']}."
    else:
        verdict = (
            "0 lies outside, so an average effect is there"
            if _excludes_zero(row)
            else "0 lies inside, so there may be none"
        )
        text += (
            f"; {level(settings.confidence)} interval {interval(row, 'mean_pp')}: {verdict}. The interval comes from "
            f"drawing {row['resampled']} again {settings.bootstrap_resamples:,} times (seed {settings.seed})."
        )
    own = regime_row(regimes, Regime.MT_ML.value)
    by_regime = [
        f"{REGIME_WORDS[regime]} ({regime.value}) {pp(each['mean_pp'])}"
        for regime in TRANSFER_REGIMES
        if (each := regime_row(regimes, regime.value))["n"]
    ]
    own_text = (
        f" On the cell it was trained on, an adapter changed the score by {pp(own['mean_pp'])}." if own["n"] else ""
    )
    return f"{text}{own_text} By kind of transfer: {'; '.join(by_regime)}."


def _surely(row: Mapping[str, Any], transfer: pl.DataFrame, settings: AnalysisConfig) -> str:
    n_items = transfer["n_items"].drop_nulls()
    parts = []
    if len(n_items):
        typical = int(n_items.median())  # type: ignore[arg-type]
        parts.append(
            f"A single pair is a weak measurement: a target has {typical} questions, so one question is "
            f"{100 / typical:.2g} pp."
        )
    if row["median_se_pp"] is not None:
        parts.append(f"The typical standard error of one delta is {row['median_se_pp']:.2f} pp.")
    if row["harm_rate_significant"] is None:
        return " ".join([*parts, "The table has no standard errors, so no single pair can be tested; read averages."])
    significant = row["loss_rate_significant"] + row["win_rate_significant"]
    gained, lost = (round(row[f"{what}_rate_significant"] * row["n_tested"]) for what in ("win", "loss"))
    parts.append(
        f"Tested one by one, with at most {level(settings.fdr)} false alarms expected among the hits "
        f"(Benjamini-Hochberg over the whole table), {gained:,} of {count(row['n_tested'], 'pair')} gained and "
        f"{lost:,} lost."
    )
    if seeds_only(row):
        parts.append(
            f"Mind that {SEEDS_ONLY}: the t tests of imported tables contain training noise only and find too much."
        )
    if significant < 0.5 * (row["win_rate"] + row["harm_rate"]):
        parts.append("Most single gains and losses are inside the noise: trust averages over many pairs, not one cell.")
    return " ".join(parts)


def _risk(row: Mapping[str, Any], settings: AnalysisConfig) -> str:
    ends = interval(row, "harm_rate", "percent")
    text = (
        f"A pair counts as harmed when it loses {-settings.harm_threshold_pp:g} pp or more: "
        f"{percent(row['harm_rate'])} of pairs" + (f" (interval {ends})." if ends else ".")
    )
    if row["harm_threshold_items"] is not None:
        text += f" The threshold is {count(row['harm_threshold_items'], 'question')} of a target."
    if row["harm_rate_by_chance"] is not None:
        text += (
            f" If no adapter had any effect, chance alone would make {percent(row['harm_rate_by_chance'])} look harmed"
        )
        sure = row["harm_rate_significant"] or 0.0
        much = row["harm_rate"] > 0 and row["harm_rate_by_chance"] >= row["harm_rate"] / 2 >= sure
        text += ", so much of this count is noise." if much else "."
    if seeds_only(row):
        return f"{text} How many would look harmed by chance alone is not known, since {SEEDS_ONLY}."
    if row["harm_rate_significant"] is not None:
        text += f" Harm that noise does not explain: {percent(row['harm_rate_significant'])} of pairs."
    return text


def _roles(roles: pl.DataFrame) -> str:
    everyone = roles.filter(pl.col("models_by") == "all")
    lines = []
    for unit, regime in (("language", Regime.MT_CL.value), ("task", Regime.CT_ML.value)):
        best = []
        for role in _VERBS:
            part = everyone.filter(unit=unit, regime=regime, role=role).sort("rank", "name")
            if part.height > 1:
                best.append(_best(part, role))
        if best:
            lines.append(f"Among {unit}s ({regime}), {' and '.join(best)}.")
    if not lines:
        return "With one language and one task there is nothing to rank."
    if any(", rank " in line for line in lines):
        lines.append(
            "The ranks in brackets are those that the data allow; where they are many, the order is not settled."
        )
    lines += [
        f"There is {why}, so the order of {role}s rests on single pairs and is not settled."
        for role in _VERBS
        if (why := why_unlabelled(everyone, role))
    ]
    return " ".join([*lines, *_labels(everyone)])


def _labels(everyone: pl.DataFrame) -> Iterator[str]:
    found = everyone.filter(pl.col("label").is_not_null() & (pl.col("unit") != "cell")).sort("unit", "regime", "rank")
    hub, helps = pl.col("label") == HUB, pl.col("score_pp") > 0
    helping, sparing, fragile = (
        [f"{name} ({regime})" for name, regime in found.filter(which).select("name", "regime").iter_rows()]
        for which in (hub & helps, hub & ~helps, ~hub)
    )
    said = [("donor", "Clearly helping more than the average of their kind", helping)] if helping or not sparing else []
    if sparing:
        said.append(("donor", "Clearly harming less than the average of their kind, but not helping", sparing))
    said.append(("recipient", "Clearly harmed more often than the average of their kind", fragile))
    for role, what, names in said:
        why = why_unlabelled(everyone, role)
        yield f"{what}: not known, since there is {why}." if why else f"{what}: {_listed(names) or 'none'}."


def _best(part: pl.DataFrame, role: str) -> str:
    """Say who is first of a sorted ranking; scores that tie have no first."""
    row = part.row(0, named=True)
    helping, sparing = _VERBS[role]
    n_first = part.filter(pl.col("rank") == row["rank"]).height
    if n_first > 1:
        return f"{n_first} of {part.height} tie at {pp(row['score_pp'])} as the best {role}s"
    text = f"{row['name']} ({pp(row['score_pp'])}"
    if row["rank_low"] is None:
        ends = interval(row, "score_pp")
        text += f", interval {ends}" if ends else ""
    else:
        text += f", rank {row['rank_low']} to {row['rank_high']} of {part.height}"
    return f"{text}) {helping if row['score_pp'] > 0 else sparing}"


def _variance(variance: pl.DataFrame) -> str:
    sentences = list(_variance_sentences(variance))
    return " ".join(sentences) if sentences else "Too few rows to split the variance; see the reasons below."


def _variance_sentences(variance: pl.DataFrame) -> Iterator[str]:
    for fit, what in (
        (CROSSED, "Shares of the variance of same-task deltas (MT-CL)"),
        (NESTED, "In the nested fit, as published"),
    ):
        part = variance.filter((pl.col("fit") == fit) & (pl.col("regime") == Regime.MT_CL.value))
        known = part.filter(pl.col("share").is_not_null()).sort("share", descending=True)
        names = {"source": "source cell", "target": "target cell", RESIDUAL: "not explained"}
        shares = [
            f"{names.get(row['component'], row['component'])} {row['share']:.0%}" for row in known.iter_rows(named=True)
        ]
        if shares:
            yield f"{what}: {', '.join(shares)}."


def _agreement(consistency: pl.DataFrame) -> str:
    part = consistency.filter(pl.col("unit") == "model")
    known = part.filter(pl.col("median").is_not_null())
    if known.is_empty():
        reasons = part["reason"].drop_nulls().unique().sort().to_list()
        return f"Not known: {'; '.join(reasons) or 'no transfer rows'}."
    shown = ", ".join(f"{row['regime']} {row['median']:.2f}" for row in known.iter_rows(named=True))
    return (
        "The Consistency Index says whether models agree which targets a source helps most (1: fully, 0: not at all, "
        f"−1: opposite). Median over sources: {shown}.".replace(" -", " −")
    )


def _distance(distance: pl.DataFrame) -> str:
    part = distance.filter(pl.col("method") == "spearman")
    known = part.filter(pl.col("correlation").is_not_null())
    if known.is_empty():
        reasons = part["reason"].drop_nulls().unique().sort().to_list()
        return f"Not known: {'; '.join(reasons) or 'no language pairs'}."
    shown = ", ".join(
        f"{row['features'].removesuffix('_knn')} {row['correlation']:+.2f} (p {row['mantel_p']:.2g})"
        for row in known.iter_rows(named=True)
    )
    return (
        f"Rank correlation of linguistic distance and same-task transfer (MT-CL): {shown}; below 0 means that near "
        "languages help more. p is Mantel's, which allows for pairs that share a language."
    ).replace(" -", " −")


def _missing(tables: AnalysisTables) -> str:
    if tables.missing.is_empty():
        return ""
    counts = tables.missing["reason"].value_counts(sort=True)
    shown = "; ".join(f"{number:,}: {reason}" for reason, number in counts.head(3).iter_rows())
    return (
        f"{count(tables.missing.height, 'row')} of the grid could not be compared ({shown}). They are hatched in the "
        "matrix and left out of every mean; they are not zeros."
    )
