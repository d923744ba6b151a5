"""The questions behind a run's surest pair, as they read and as base and adapter answered them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from transfergrid.analysis.records import TARGET
from transfergrid.analysis.report.numbers import pp
from transfergrid.benchmarks.metrics import METRICS, pick_choice
from transfergrid.benchmarks.texts import ItemTexts, Texts
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import BASELINE_NAME
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import scan_scores, score_parts
from transfergrid.wording import count

SHOWN = 4
"""Questions on the page."""


class Question(NamedTuple):
    """One question; marks say which choice is right and who picked it."""

    text: str
    choices: list[tuple[str, str]]
    """Text and marks of every choice."""


class Proof(NamedTuple):
    """What the surest pair rests on."""

    sentences: tuple[str, ...]
    questions: list[Question]


def find_proof(run: RunFolder, config: GridConfig | None, transfer: pl.DataFrame, settings: AnalysisConfig) -> Proof:
    """Return the questions of the pair with the lowest q whose answers changed most in its direction."""
    found = _surest(transfer, settings)
    if found is None:
        return Proof(("No single pair is significant, so no question stands for an effect.",), [])
    row, by_accuracy = found
    pairs = _pairs(run, row)
    sign = 1 if METRICS[row["primary_metric"]].higher_is_better else -1
    gains = {each["item_id"]: sign * (each["value_adapter"] - each["value"]) for each in pairs}
    n_gained, n_lost = (sum(side * gain > 0 for gain in gains.values()) for side in (1, -1))
    rises = (row["delta_pp"] if by_accuracy else row["graded_pp"]) > 0
    changed = [each for each in pairs if gains[each["item_id"]] * (1 if rises else -1) > 0]
    ordered = sorted(changed or pairs, key=_margin_change, reverse=rises)
    target = "-".join(row[name] for name in TARGET)
    measure = (
        (pp(row["delta_pp"]), row["q_value"]) if by_accuracy else (f"graded {pp(row['graded_pp'])}", row["graded_q"])
    )
    sentence = (
        f"The surest pair is {row['source']} on {target}: {measure[0]}, q {measure[1]:.2g}. Of {len(pairs)} questions "
        f"{n_gained} were gained and {n_lost} lost."
    )
    texts = ItemTexts(run, config).cell(*(row[name] for name in TARGET))
    if texts.why_not:
        return Proof((sentence, f"Their texts are missing: {texts.why_not}."), [])
    told = [each for each in ordered if each["item_id"] in texts.items][:SHOWN]
    questions = [_question(each, texts) for each in told]
    return Proof(
        (sentence, f"Here are {count(len(questions), 'question')} that changed most; 'grid view' shows all."), questions
    )


def _surest(transfer: pl.DataFrame, settings: AnalysisConfig) -> tuple[dict[str, Any], bool] | None:
    """Return the surest row, and whether it is sure by accuracy; else by graded transfer."""
    of_items = transfer.filter(pl.col("origin") == "items")
    for column, size in (("q_value", "delta_pp"), ("graded_q", "graded_pp")):
        sure = of_items.filter(pl.col(column) <= settings.fdr).sort(
            column, pl.col(size).abs(), descending=[False, True]
        )
        if sure.height:
            return sure.row(0, named=True), column == "q_value"
    return None


def _pairs(run: RunFolder, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scored items of base and adapter side by side, of the adapter's first seed."""
    here = [pl.col(name) == row[name] for name in ("model", *TARGET)]
    columns = ("item_id", "gold", "value", "loglikelihoods_nats", "choice_chars", "primary_metric")
    rows = scan_scores(score_parts(run)).filter(*here, pl.col("source").is_in([BASELINE_NAME, row["source"]]))
    scored = rows.filter(pl.col("loglikelihoods_nats").list.len() > 1).select("source", "seed", *columns).collect()
    of_adapter = scored.filter(pl.col("source") == row["source"])
    first = of_adapter.filter(pl.col("seed") == pl.col("seed").min())
    base = scored.filter(pl.col("source") == BASELINE_NAME)
    return base.join(first, on="item_id", suffix="_adapter", validate="1:1").sort("item_id").to_dicts()


def _margin_change(pair: Mapping[str, Any]) -> float:
    """Return by how much the right choice gained on the best other one, as they are compared."""

    def margin(suffix: str) -> float:
        values = _compared(pair, suffix)
        gold = values.pop(pair["gold"])
        return gold - max(values)

    return margin("_adapter") - margin("")


def _compared(pair: Mapping[str, Any], suffix: str) -> list[float]:
    values = pair[f"loglikelihoods_nats{suffix}"]
    by_length = METRICS[pair["primary_metric"]].length is not None
    return [value / (chars if by_length else 1) for value, chars in zip(values, pair["choice_chars"], strict=True)]


def _question(pair: Mapping[str, Any], texts: Texts) -> Question:
    item = texts.items[pair["item_id"]]
    picks = {name: pick_choice(_compared(pair, suffix)) for name, suffix in (("base", ""), ("adapter", "_adapter"))}
    choices = []
    for place, text in enumerate(item.choices):
        marks = ["right"] * (place == pair["gold"]) + [f"the {name}'s" for name, pick in picks.items() if pick == place]
        choices.append((text, ", ".join(marks)))
    return Question(texts.split_shared(item.context)[1], choices)
