"""Graded transfer of one model's items: how much probability moved to the gold choice, temperatures matched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import BoolArray, FloatArray, IntArray
from transfergrid.analysis.graded.choices import ItemChoices
from transfergrid.analysis.graded.columns import NUMBERS
from transfergrid.analysis.graded.sign_flips import FlipColumns, flip_columns, sign_flip_tests
from transfergrid.analysis.graded.temperature import (
    base_temperature,
    match_temperature,
    probabilities,
    shifted,
)
from transfergrid.analysis.records import TARGET
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.benchmarks.metrics import METRICS
from transfergrid.config.settings import AnalysisConfig

NO_CHOICES = "no graded transfer: no item has finite log-likelihoods of two choices or more on both sides"
NO_LENGTHS = "no graded transfer: the metric compares lengths that the store does not have"
NOTHING_TOLD_APART = "no graded transfer: the base gives the choices of half of the items the same score"
NO_TEMPERATURE = "no graded transfer: no temperature makes the adapter as sure as the base"

_KEYS = {"seed": pl.Int64, "source": pl.String, **dict.fromkeys(TARGET, pl.String)}


class Graded(NamedTuple):
    """Graded transfer of one model."""

    values: FloatArray
    """Shape [rows]: what a paired row adds, its mean over items being graded transfer / 100; NaN: left out."""
    rows: pl.DataFrame
    """One row per (seed, source, target) with paired items."""


def grade(
    paired: pl.DataFrame, pairs: pl.DataFrame, base: pl.DataFrame, choices: ItemChoices, settings: AnalysisConfig
) -> Graded:
    """Return graded transfer of one model, target by target.

    ``100 x mean over items of softmax(z1 / T1) - softmax(z0 / T0) at the gold``; z is the statistic whose largest
    value is the prediction; T0 is half the median over the target's items of the base's |gold - best other|; T1 makes
    the mean top probability of the adapter equal to the base's. Several adapters of a target are matched at once.

    Args:
        paired: Adapters' rows with ``row``, their places among the choices, ``base_row``, ``pair`` and ``paired``.
        pairs: One row per (seed, source, target), numbered by ``pair``, those of a target together.
        base: The base's rows in the order of ``base_row``, with ``row``.
        choices: The choices of all of the model's rows.
        settings: Level of the intervals and seed of the flips.
    """
    values = np.full(paired.height, np.nan)
    records: list[pl.DataFrame] = []
    for part in _targets(paired, pairs, base):
        found = _of_target(part, choices, settings)
        values[part.places] = found.values
        columns = [pl.Series(name, each, dtype=NUMBERS[name]) for name, each in found.columns.items()]
        records.append(part.pairs.with_columns(columns).with_columns(pl.col(pl.Float64).fill_nan(None)))
    return Graded(values, pl.concat([pl.DataFrame(schema={**_KEYS, **NUMBERS}), *records], how="diagonal"))


class _Target(NamedTuple):
    """Paired rows of one target."""

    metric: str | None
    places: IntArray
    """Shape [n]: places in the paired rows."""
    rows: IntArray
    """Shape [n]: places of the adapters' rows in the frame."""
    pair: IntArray
    """Shape [n]: which (seed, source)."""
    item: IntArray
    """Shape [n]: which of the base's items."""
    base_rows: IntArray
    """Shape [I]: places of the base's scored rows in the frame."""
    pairs: pl.DataFrame
    """Seed, source and target of every pair."""


def _targets(paired: pl.DataFrame, pairs: pl.DataFrame, base: pl.DataFrame) -> Iterator[_Target]:
    usable = np.flatnonzero(paired["paired"].to_numpy())
    base_row, row, pair = (
        paired[name].gather(usable).to_numpy().astype(np.intp) for name in ("base_row", "row", "pair")
    )
    scored, of_frame = base["scored"].to_numpy(), base["row"].to_numpy().astype(np.intp)
    spans = base.group_by(TARGET, maintain_order=True).agg(
        first=pl.col("base_row").min(), n=pl.len(), metric=pl.col("metric").drop_nulls().first()
    )
    number = np.repeat(np.arange(spans.height, dtype=np.int16), spans["n"])[base_row]
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(spans.height), side="right")
    for (task, language, first, n, metric), chosen in zip(spans.iter_rows(), np.split(order, ends[:-1]), strict=True):
        if not len(chosen):
            continue
        of_target = pairs.filter(target_task=task, target_language=language)
        inside = scored[first : first + n]
        item = (np.cumsum(inside) - 1)[base_row[chosen] - first]
        codes = pair[chosen] - int(of_target["pair"][0])
        base_rows = of_frame[first : first + n][inside]
        yield _Target(metric, usable[chosen], row[chosen], codes, item, base_rows, of_target.select(*_KEYS))


class _Found(NamedTuple):
    """Graded transfer of P pairs on one target."""

    values: FloatArray
    """Shape [n]: of the target's paired rows."""
    columns: dict[str, Any]
    """Numbers by pair, shape [P] each, NaN where there is none."""


def _nothing(part: _Target, reason: str) -> _Found:
    return _Found(np.full(len(part.rows), np.nan), {"graded_reason": [reason] * part.pairs.height})


def _of_target(part: _Target, choices: ItemChoices, settings: AnalysisConfig) -> _Found:
    length = METRICS[part.metric].length if part.metric else None
    if length not in (None, len):
        return _nothing(part, NO_LENGTHS)
    width = int(max(choices.lengths[rows].max(initial=0) for rows in (part.base_rows, part.rows)))
    of_base = choices.compared(part.base_rows, by_length=length is len, width=width)
    known = _is_known(of_base)
    if not known.any():
        return _nothing(part, NO_CHOICES)
    gold = choices.gold[part.base_rows]
    temperature = base_temperature(of_base[:, known], gold[known])
    if not 0 < temperature < np.inf:
        return _nothing(part, NOTHING_TOLD_APART)
    of_adapters = choices.compared(part.rows, by_length=length is len, width=width)
    usable = known[part.item] & _is_known(of_adapters)
    z = np.zeros((len(of_adapters), part.pairs.height, len(gold)))
    scored = np.zeros(z.shape[1:], dtype=np.bool_)
    z[:, part.pair, part.item] = np.where(usable, of_adapters, 0.0)
    scored[part.pair, part.item] = usable
    base = shifted(np.where(known, of_base, 0.0))
    found, values, tests = _compare(_Sides(base, shifted(z), gold, scored), 1 / temperature)
    with np.errstate(invalid="ignore"):
        change = choices.per_char(part.rows, width) - choices.per_char(part.base_rows, width)[:, part.item]
    found |= _register(change, part, gold=gold[part.item], usable=usable)
    has = np.isfinite(found["graded_pp"])
    one = has & ~_is_repeated(part.pairs, has)
    return _Found(np.where(usable, values[part.pair, part.item], np.nan), found | _tested(tests, one, settings))


def _register(change: FloatArray, part: _Target, *, gold: IntArray, usable: BoolArray) -> dict[str, FloatArray]:
    """Return by pair how much right and wrong choices rose per character, each an item's mean and then theirs.

    Args:
        change: Log-likelihoods per character, adapter minus base, shape [C, n].
        part: The target, whose pairs without any item have none.
        gold: Shape [n].
        usable: Items that count, shape [n].
    """
    is_gold = np.arange(len(change))[:, None] == gold
    found = {}
    for name, chosen in (("register", is_gold), ("others", ~is_gold & np.isfinite(change))):
        n_choices = chosen.sum(axis=0)
        counted = usable & (n_choices > 0)
        mean = np.where(chosen, change, 0.0).sum(axis=0) / np.maximum(n_choices, 1)
        total, n_items = (
            np.bincount(part.pair, each, minlength=part.pairs.height)
            for each in (np.where(counted, mean, 0.0), counted)
        )
        with np.errstate(invalid="ignore"):
            found[f"{name}_nats_per_char"] = total / n_items
    return found


def _tested(columns: FlipColumns, chosen: BoolArray, settings: AnalysisConfig) -> dict[str, FloatArray]:
    """Return p values and intervals of the chosen pairs, shape [P] each, NaN for the others."""
    kept = FlipColumns(columns.scored[chosen], *(each[:, chosen] for each in columns[1:]))
    tests = sign_flip_tests(kept, confidence=settings.confidence, seed=settings.seed)
    found = {}
    scales = {"graded_p": 1, "graded_p_below_0": 1, "graded_pp_low": 100, "graded_pp_high": 100}
    for (name, scale), each in zip(scales.items(), tests, strict=True):
        found[name] = np.full(len(chosen), np.nan)
        found[name][chosen] = scale * each
    return found


def _is_known(compared: FloatArray) -> BoolArray:
    """Return which items have two choices or more, no NaN and a finite best one, from shape [C, n]."""
    there = compared > -np.inf
    known: BoolArray = (there.sum(axis=0) > 1) & np.isfinite(compared.max(axis=0))
    return known


class _Sides(NamedTuple):
    base: FloatArray
    """Shape [C, I], the best of an item at 0."""
    adapters: FloatArray
    """Shape [C, P, I]."""
    gold: IntArray
    """Shape [I]."""
    scored: BoolArray
    """Shape [P, I]: items that base and adapter have."""


def _compare(sides: _Sides, inverse: float) -> tuple[dict[str, Any], FloatArray, FlipColumns]:
    """Return numbers by pair, what every item adds, shape [P, I], NaN where nothing matches, and the flips' columns.

    What an item adds holds what it does to the matched temperature, too: the implicit derivative of the mean.
    """
    scored, n = sides.scored, sides.scored.sum(axis=1)
    of_base = probabilities(sides.base, sides.gold, inverse)
    sharpness = scored @ of_base.top / np.maximum(n, 1)
    matched = match_temperature(sides.adapters, scored, sharpness=sharpness, inverse=inverse)
    has = np.isfinite(matched)
    of_adapters = probabilities(sides.adapters, sides.gold, np.where(has, matched, inverse)[:, None])
    gold, top = (np.where(scored, each, 0.0).sum(axis=1) for each in (of_adapters.gold_slope, of_adapters.top_slope))
    ratio = np.divide(gold, top, out=np.zeros(len(n)), where=top > 0)[:, None]
    values = of_adapters.gold - of_base.gold - ratio * (of_adapters.top - of_base.top)
    values = np.where(scored & has[:, None], values, np.where(has[:, None], 0.0, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, squares = values.sum(axis=1) / n, (values**2).sum(axis=1)
        se = np.sqrt(np.maximum(squares - n * mean**2, 0.0) / (n * (n - 1.0)))
    found = {
        "graded_pp": (100 * mean).round(9),
        "graded_se_pp": 100 * se,
        "graded_squares": squares,
        "graded_n_items": n,
        "temperature_ratio": inverse / matched,
        "graded_reason": [
            None if matches else NO_TEMPERATURE if items else NO_CHOICES for matches, items in zip(has, n, strict=True)
        ],
    }
    return found, values, flip_columns(of_base, of_adapters, scored)


def _is_repeated(pairs: pl.DataFrame, has: BoolArray) -> BoolArray:
    """Return which pairs are of a source with several seeds that have graded transfer, shape [P]."""
    codes = level_codes(pairs, ["source"])
    repeated: BoolArray = np.bincount(codes, has)[codes] > 1
    return repeated
