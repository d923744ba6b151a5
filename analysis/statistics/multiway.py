"""Intervals of a mean delta whose rows share sources, targets and items: multiway clustered variance.

A sum over all pairs of answers that share a source, a target or an item is what they share a source, plus a target,
plus an item, less what was counted twice, plus what was taken off too often (inclusion and exclusion).

Where a source task has an effect of its own on a target task, cells of other tasks would differ by more than that: its
variance over tasks is added, see `task_interaction`.

Source: Cameron, Gelbach and Miller 2011, Robust inference with multiway clustering.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special

from transfergrid.analysis.arrays import Float32Array, FloatArray, IntArray
from transfergrid.analysis.records import PAIR, SOURCE, TARGET, ItemBlock
from transfergrid.analysis.statistics.levels import count_levels, level_codes, membership
from transfergrid.analysis.statistics.pair_noise import RULE_OF_THREE

LEAST_TASKS = 3
"""With fewer tasks on a side their interaction cannot be told from chance."""


class _Squares(NamedTuple):
    """Sums over what rows share, of the squared sums of their values."""

    source: float
    target: float
    pair: float
    everything: float


class _Rows(NamedTuple):
    """Values of N rows."""

    deltas: FloatArray
    n_items: FloatArray
    """NaN: a row without items."""
    sources: IntArray
    targets: IntArray
    block: IntArray
    """Shape [N]: the item block of a row; -1: none."""
    place: IntArray
    """Shape [N]: the row's place among the influences of its block."""
    influences: list[Float32Array]
    """Per block, shape [n, I]: what every item adds to its row's delta, less the mean, in pp; the squares of a row add
    up to its squared standard error over items."""
    interaction: Interaction


class Interaction(NamedTuple):
    """What source tasks do to target tasks beyond what the two do by themselves."""

    variance: float
    """Over pairs of tasks, pp^2; 0 where it is not above chance, or there are too few tasks."""
    df: int
    codes: IntArray
    """Shape [N]: the pair of tasks of a row; -1: a row of MT-ML."""


def mean_intervals(
    rows: pl.DataFrame,
    items: Sequence[ItemBlock],
    groups: Sequence[IntArray],
    *,
    factors: Sequence[Sequence[str]],
    confidence: float,
) -> FloatArray:
    """Return the interval of every group's mean delta over sources, targets and items like these.

    Args:
        rows: N rows of the transfer table, ``delta_pp`` without nulls.
        items: Item-wise differences; none: sources and targets only.
        groups: Places of the rows of G groups, none empty.
        factors: Per group ``sources`` and ``targets``, as far as they are seen as drawn.
        confidence: Level, 0..1.

    Returns:
        Shape [2, G]: mean -/+ t se, t with one degree of freedom less than there are levels of the rarer factor (items
        of a target where there is none); NaN where nothing is drawn, or nothing varies and there are no items.
    """
    known = _rows(rows, items)
    ends = np.full((2, len(groups)), np.nan)
    for place, (index, chosen) in enumerate(zip(groups, factors, strict=True)):
        mean = float(known.deltas[index].mean())
        width = _half_width(known, index, chosen, confidence)
        ends[:, place] = mean - width, mean + width
    return np.clip(ends, -100.0, 100.0)


class Influences(NamedTuple):
    """What the items of one block add to the deltas of n rows, less the mean."""

    rows: IntArray
    """Shape [n]: places of the rows."""
    values: Float32Array
    """Shape [n, I], pp: products of two rows add up to the covariance of their noise of items."""
    n_items: FloatArray
    """Shape [n]."""


def item_influences(rows: pl.DataFrame, items: Sequence[ItemBlock]) -> Iterator[Influences]:
    """Yield what items add to every row of a transfer table that has any, one block of items at a time."""
    numbered = rows.select("model", *PAIR).with_row_index("row")
    for block in items:
        found = block.keys.with_row_index("place").join(numbered, on=["model", *PAIR], how="inner", validate="1:1")
        chosen = found["place"].to_numpy()
        scored = block.scored[chosen]
        n = np.maximum(scored.sum(axis=1, keepdims=True), 1)
        mean = block.differences[chosen].sum(axis=1, keepdims=True) / n
        values = np.where(scored, block.differences[chosen] - mean, 0.0) * (100 / np.sqrt(n * np.maximum(n - 1, 1)))
        yield Influences(found["row"].to_numpy().astype(np.intp), values.astype(np.float32), n[:, 0].astype(np.float64))


def _rows(rows: pl.DataFrame, items: Sequence[ItemBlock]) -> _Rows:
    block, place = np.full(rows.height, -1), np.zeros(rows.height, dtype=np.intp)
    influences, n_items = [], np.full(rows.height, np.nan)
    for number, (inside, values, n) in enumerate(item_influences(rows, items)):
        influences.append(values)
        block[inside], place[inside], n_items[inside] = number, np.arange(len(inside)), n
    codes = level_codes(rows, SOURCE), level_codes(rows, TARGET)
    return _Rows(rows["delta_pp"].to_numpy(), n_items, *codes, block, place, influences, task_interaction(rows))


def task_interaction(rows: pl.DataFrame) -> Interaction:
    """Return the interaction of source and target tasks, by mean squares.

    Means of pairs of tasks less their row's and their column's; expected of it by chance alone is the mean square of
    single pairs within them, less their source's and their target's mean there, over the number of pairs.

    Args:
        rows: N rows with ``delta_pp``; those of MT-ML do not count.
    """
    tasks = [level_codes(rows, [name]) for name in ("source_task", "target_task")]
    shape = tuple(int(codes.max(initial=-1)) + 1 for codes in tasks)
    is_own = rows.select(
        (pl.col("source_task") == pl.col("target_task")) & (pl.col("source_language") == pl.col("target_language"))
    )
    codes = np.where(is_own.to_series().to_numpy(), -1, tasks[0] * shape[1] + tasks[1])
    df = (shape[0] - 1) * (shape[1] - 1)
    delta = pl.col("delta_pp")
    blocks = ["source_task", "target_task"]
    pairs = rows.filter(pl.Series(codes >= 0)).group_by(PAIR, maintain_order=True).agg(delta.mean())
    means = pairs.group_by(blocks).agg(delta.mean(), n=pl.len()).sort(blocks)
    if min(shape) < LEAST_TASKS or means.height < shape[0] * shape[1]:
        return Interaction(0.0, df, codes)
    apart = (
        delta
        - delta.mean().over(*SOURCE, "target_task")
        - delta.mean().over("source_task", *TARGET)
        + delta.mean().over(blocks)
    )
    n_levels = (pl.struct(columns).n_unique().over(blocks) for columns in (SOURCE, TARGET))
    # one degree of freedom less for every source and every target of a pair of tasks, one more for the pair itself
    lost = sum((each / pl.len().over(blocks) for each in n_levels), start=-1 / pl.len().over(blocks))
    squares, left = pairs.select(apart.pow(2).sum().alias("squares"), (1 - lost).sum().alias("left")).row(0)
    table = means["delta_pp"].to_numpy().reshape(shape)
    double = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    chance = squares / left * float(np.mean(1 / means["n"].to_numpy())) if left > 0 else 0.0
    return Interaction(max(float((double**2).sum()) / df - chance, 0.0), df, codes)


def _half_width(known: _Rows, index: IntArray, factors: Sequence[str], confidence: float) -> float:
    """Return t se of the mean of some rows; NaN: not known."""
    codes = {"sources": known.sources[index], "targets": known.targets[index]}
    counts = known.n_items[index][np.isfinite(known.n_items[index])]
    n_items = float(np.median(counts)) if counts.size else 0.0
    variance = _variance(known, index, factors) / len(index) ** 2
    if variance <= 0 and counts.size:
        variance = RULE_OF_THREE * (100 / n_items) ** 2 / count_levels(codes["targets"])
    df = min(count_levels(codes[name]) for name in factors) - 1 if factors else n_items - 1
    if variance <= 0 or df <= 0:
        return float("nan")
    shares = np.bincount(known.interaction.codes[index] + 1)[1:] / len(index)
    of_tasks = known.interaction.variance * float((shares**2).sum()) if np.count_nonzero(shares) > 1 else 0.0
    total = variance + of_tasks
    df = total**2 / (variance**2 / df + of_tasks**2 / max(known.interaction.df, 1))  # Satterthwaite 1946
    return float(special.stdtrit(df, 0.5 + confidence / 2) * np.sqrt(total))


def _variance(known: _Rows, index: IntArray, factors: Sequence[str]) -> float:
    """Return the variance of the rows' sum; at least that of items alone, and of each factor alone."""
    sources, targets, deltas = known.sources[index], known.targets[index], known.deltas[index]
    rows = _squares((deltas - deltas.mean())[:, None], sources, targets)
    parts = [known.block[index] == number for number in range(len(known.influences))]
    of_items = [
        _squares(known.influences[number][known.place[index[part]]], sources[part], targets[part])
        for number, part in enumerate(parts)
        if part.any()
    ]
    items = _Squares(*np.sum(of_items, axis=0)) if of_items else _Squares(0.0, 0.0, 0.0, 0.0)
    n_sources, n_targets = count_levels(sources), count_levels(targets)
    source, target = (
        square * n / (n - 1) if name in factors else 0.0
        for name, square, n in (("sources", rows.source, n_sources), ("targets", rows.target, n_targets))
    )
    apart = (items.source if source else 0.0) + (items.target if target else 0.0)
    both = rows.pair - items.pair if source and target else 0.0
    return max(source + target - both + items.everything - apart, items.everything, source, target)


def _squares(values: npt.NDArray[np.floating], sources: IntArray, targets: IntArray) -> _Squares:
    """Return the squared sums of n rows of values, shape [n, K], by what rows share."""
    pairs, pair = np.unique(sources * (int(targets.max()) + 1) + targets, return_inverse=True)
    first = np.unique(pair, return_index=True)[1]
    of_pairs = _sums(values, pair, len(pairs))
    totals = [_sums(of_pairs, codes[first], int(codes.max()) + 1) for codes in (sources, targets)]
    every = of_pairs.sum(axis=0)
    return _Squares(*(float((each.astype(np.float64) ** 2).sum()) for each in (*totals, of_pairs, every)))


def _sums(values: npt.NDArray[np.floating], codes: IntArray, n_levels: int) -> npt.NDArray[np.floating]:
    """Return the sums of the rows of every level, shape [levels, K]."""
    if values.shape[1] == 1:
        return np.asarray(np.bincount(codes, values[:, 0], minlength=n_levels)[:, None], dtype=np.float64)
    groups = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=n_levels))[:-1])
    found: npt.NDArray[np.floating] = membership(groups, len(codes)) @ values
    return found
