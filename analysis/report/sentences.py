"""The page's first screen: what was measured, how surely and at what risk, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from transfergrid.analysis.graded.learnt import taught
from transfergrid.analysis.records import ALL_TRANSFER
from transfergrid.analysis.report.numbers import excludes_zero, interval, percent, pp
from transfergrid.analysis.tables.facts import (
    agreement,
    comparisons,
    distance_correlations,
    graded_transfer,
    harm_is_mostly_chance,
    is_mostly_noise,
    labelled,
    missing_reasons,
    n_significant,
    regime_row,
    seeds_only,
    variance_shares,
)
from transfergrid.analysis.tables.regimes import SEEDS_ONLY
from transfergrid.analysis.tables.roles import FRAGILE, HUB, why_unlabelled
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.analysis.tables.variance import CROSSED, NESTED, RESIDUAL
from transfergrid.analysis.transfer.remarks import remark_lines
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import TRANSFER_REGIMES, Regime
from transfergrid.wording import count, level, listed

REGIME_WORDS = {
    Regime.MT_ML: "same task, same language",
    Regime.MT_CL: "same task, other language",
    Regime.CT_ML: "other task, same language",
    Regime.CT_CL: "other task, other language",
}
"""What every regime says of source and target."""

_SHOWN_NAMES = 6
_VERBS = {
    "donor": ("helps the others most", "harms the others least"),
    "recipient": ("is helped most", "is harmed least"),
}
"""What the first of a ranking does where its score is above 0, and where it is not."""


class Finding(NamedTuple):
    """A paragraph of the summary."""

    lead: str
    text: str


def findings(tables: AnalysisTables, settings: AnalysisConfig) -> list[Finding]:
    """Return the summary's paragraphs; one whose numbers are not there says why."""
    row = regime_row(tables.regimes, ALL_TRANSFER)
    found = [Finding("What was measured.", _measured(tables.single_source))]
    if row["n"]:
        graded = graded_transfer(row)
        found += [
            Finding("Does it carry over?", _carries_over(tables.regimes, settings)),
            Finding("How surely?", _surely(row, tables.single_source, settings)),
            Finding("At what risk?", _risk(row, settings)),
            *([Finding("And by a finer measure?", f"Graded transfer: {graded}".replace("-", "−"))] if graded else []),
            Finding("Who helps, who is helped?", _roles(tables.roles)),
            Finding("Where do the differences come from?", _variance(tables.variance)),
            Finding("Do models agree?", _agreement(tables.consistency)),
            Finding("Does distance matter?", _distance(tables.distance)),
        ]
    for question, lines in comparisons(tables.mixtures, tables.merges, tables.variants).items():
        found.append(Finding(question, f"{'. '.join(lines)}.".replace(" -", " −").replace("(-", "(−")))
    told = taught(tables.single_source, tables.transfer, settings)
    found[1:1] = [
        Finding(f"What was learnt{name and f' under {name}'}?", text.replace(" -", " −")) for name, text in told.items()
    ]
    if tables.missing.height:
        found.append(Finding("What is missing?", _missing(tables.missing)))
    if lines := remark_lines(tables.transfer):
        found.append(Finding("What else must be known?", ". ".join(lines) + "."))
    return found


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
        f"A cell is one task in one language: here {count(len(tasks), 'task')} ({listed(tasks, _SHOWN_NAMES)}) in "
        f"{count(len(languages), 'language')} ({listed(languages, _SHOWN_NAMES)})."
    )
    training = (
        f"For {count(n_sources, 'cell')}, a small add-on to the base model (a LoRA adapter) was trained on that cell "
        f"alone{repeated}. This was done for {count(len(models), 'model')} ({listed(models, _SHOWN_NAMES)})."
    )
    scoring = (
        "Every adapter then answered the same multiple-choice questions as the untouched base model, on "
        f"{count(n_targets, 'cell')}. The delta of a pair is the adapter's score minus the base's, in percentage "
        "points (pp). Above 0 the training helped there, below 0 it hurt. An adapter on its own cell (MT-ML) is not "
        "transfer and is kept out of the numbers below."
    )
    return f"{grid} {training} {scoring}"


def _carries_over(regimes: pl.DataFrame, settings: AnalysisConfig) -> str:
    row = regime_row(regimes, ALL_TRANSFER)
    text = f"Over {count(row['n'], 'pair')} the mean delta is {pp(row['mean_pp'])}"
    if row["mean_pp_low"] is None:
        text += f"; no interval: {row['reason']}."
    else:
        where = "outside, so an average effect is there" if excludes_zero(row) else "inside, so there may be none"
        text += (
            f"; {level(settings.confidence)} interval {interval(row, 'mean_pp')}: 0 lies {where}. The interval is "
            f"about {row['resampled']} like these."
        )
    own = regime_row(regimes, Regime.MT_ML.value)
    by_regime = [
        f"{REGIME_WORDS[regime]} ({regime.value}) {pp(each['mean_pp'])}"
        for regime in TRANSFER_REGIMES
        if (each := regime_row(regimes, regime.value))["n"]
    ]
    if own["n"]:
        text += f" On the cell it was trained on, an adapter changed the score by {pp(own['mean_pp'])}."
    return f"{text} By kind of transfer: {'; '.join(by_regime)}."


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
        typical_se = f"The typical standard error of one delta is {row['median_se_pp']:.2f} pp"
        parts.append(f"{typical_se} (pairs without a changed answer left out).")
    if row["harm_rate_significant"] is None:
        return " ".join([*parts, "The table has no standard errors, so no single pair can be tested; read averages."])
    parts.append(
        f"Tested one by one (Benjamini-Hochberg over the whole table), {n_significant(row, 'win'):,} of "
        f"{count(row['n_tested'], 'pair')} gained and {n_significant(row, 'harm'):,} were harmed, with at most "
        f"{level(settings.fdr)} false alarms expected."
    )
    if seeds_only(row):
        parts.append(
            f"Mind that {SEEDS_ONLY}. So the t tests of imported tables contain training noise only and find too much."
        )
    if is_mostly_noise(row):
        parts.append("Most single gains and losses are inside the noise: trust averages over many pairs, not one cell.")
    return " ".join(parts)


def _risk(row: Mapping[str, Any], settings: AnalysisConfig) -> str:
    cut = f"A pair counts as harmed when it loses {-settings.harm_threshold_pp:g} pp or more"
    seen = interval(row, "harm_rate", "percent")
    published = f"{percent(row['harm_rate'])} of pairs" + (f" (interval {seen})" if seen else "")
    if row["harm_rate_true"] is None:
        text = f"{cut}: by the published definition, noise included, {published}."
    else:
        text = (
            f"{cut}. Truly, {percent(row['harm_rate_true'])} of pairs are harmed (interval "
            f"{interval(row, 'harm_rate_true', 'percent')}) and {percent(row['win_rate_true'])} gain. By the published "
            f"definition, noise included: {published} harmed, {percent(row['win_rate'])} gain."
        )
    if row["harm_threshold_items"] is not None:
        text += f" The threshold is {count(row['harm_threshold_items'], 'question')} of a target."
    if row["harm_rate_by_chance"] is not None:
        text += (
            f" If no adapter had any effect, chance alone would make {percent(row['harm_rate_by_chance'])} look harmed"
        )
        text += ", so much of this count is noise." if harm_is_mostly_chance(row) else "."
    if seeds_only(row):
        return f"{text} How many would look harmed by chance alone is not known. The reason: {SEEDS_ONLY}."
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
            lines += [f"Among {unit}s ({regime}), {each}." for each in best]
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


def _labels(roles: pl.DataFrame) -> Iterator[str]:
    hubs, fragile = labelled(roles, HUB), labelled(roles, FRAGILE)
    helping = [unit for unit in hubs.units if unit[2] > 0]
    sparing = [unit for unit in hubs.units if unit[2] <= 0]
    said = [(hubs, "Clearly helping more than the average of their kind", helping)] if helping or not sparing else []
    if sparing:
        said.append((hubs, "Clearly harming less than the average of their kind, but not helping", sparing))
    said.append((fragile, "Clearly harmed more often than the average of their kind", list(fragile.units)))
    for fact, what, units in said:
        names = listed([f"{name} ({regime})" for name, regime, _ in units], _SHOWN_NAMES) or "none"
        yield f"{what}: not known, since there is {fact.unknown}." if fact.unknown else f"{what}: {names}."


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
    names = {"source": "source cell", "target": "target cell", RESIDUAL: "not explained"}
    said = []
    for fit, what in (
        (CROSSED, "Shares of the variance of same-task deltas (MT-CL)"),
        (NESTED, "In the nested fit, as published"),
    ):
        largest_first = sorted(variance_shares(variance, fit).shares, key=lambda each: -each[1])
        if largest_first:
            shares = ", ".join(
                f"{names.get(component, component)} {share:.0%}"
                + ("" if true is None else f" ({true:.0%} without noise of items)")
                for component, share, true in largest_first
            )
            said.append(f"{what}: {shares}.")
    return " ".join(said) or "Too few rows to split the variance; see the reasons below."


def _agreement(consistency: pl.DataFrame) -> str:
    found = agreement(consistency)
    known = [f"{regime} {median:.2f}" for regime, median, _ in found if median is not None]
    if not known:
        return _not_known([reason for _, _, reason in found], "no transfer rows")
    return (
        "The Consistency Index says whether models agree which targets a source helps most (1: fully, 0: not at all, "
        f"−1: opposite). Median over sources: {', '.join(known)}.".replace(" -", " −")
    )


def _distance(distance: pl.DataFrame) -> str:
    found = distance_correlations(distance)
    known = [
        f"{row['features']} {row['correlation']:+.2f} (p {row['mantel_p']:.2g})"
        for row in found
        if row["correlation"] is not None
    ]
    if not known:
        return _not_known([row["reason"] for row in found], "no language pairs")
    return (
        f"Rank correlation of linguistic distance and same-task transfer (MT-CL): {', '.join(known)}; below 0 means "
        "that near languages help more. p is Mantel's, which allows for pairs that share a language."
    ).replace(" -", " −")


def _not_known(reasons: Sequence[str | None], otherwise: str) -> str:
    return f"Not known: {'; '.join(sorted({reason for reason in reasons if reason})) or otherwise}."


def _missing(missing: pl.DataFrame) -> str:
    shown = "; ".join(f"{number:,}: {reason}" for reason, number in missing_reasons(missing, 3))
    return (
        f"{count(missing.height, 'row')} of the grid could not be compared ({shown}). They are hatched in the "
        "matrix and left out of every mean; they are not zeros."
    )
