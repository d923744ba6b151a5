"""The cluster bootstrap: sources, targets, models and items are resampled as wholes, never single rows.

Every row of a transfer table shares its source, its target and its items with many others, so rows are not
independent. Each factor is resampled by itself and a row's weight is the product of its levels' counts (the
pigeonhole bootstrap of Owen 2007); item counts enter every row's delta. Random numbers are drawn per factor from
generators that depend on the seed and the factor's name only, so neither the order of rows nor that of calls matters.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from transfergrid.analysis.arrays import BoolArray, Float32Array, FloatArray, IntArray
from transfergrid.analysis.records import PAIR, ItemBlock
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.pair_noise import RULE_OF_THREE
from transfergrid.config.settings import AnalysisConfig

FACTORS = {
    "models": ("model",),
    "sources": ("source_task", "source_language"),
    "targets": ("target_task", "target_language"),
}
"""Factors whose levels can be resampled, with the columns that name a level."""

MIN_VALID_SHARE = 0.9
"""An interval needs this share of resamples in which the group is not empty."""

DRAW_DECIMALS = 4
"""Digits of a resampled delta or score in pp that float32 sums hold: -1 must count as harm, and equal ones must tie."""

_CHUNK_ELEMENTS = 4_000_000


class Interval(NamedTuple):
    """Lower and upper end per group, shape [G]; NaN: too few resamples in which the group is not empty."""

    low: FloatArray
    high: FloatArray


def level_counts(name: str, n_levels: int, *, n_resamples: int, seed: int) -> Float32Array:
    """Return how often every level is drawn, shape [B, n_levels]; every row sums to n_levels.

    Args:
        name: Name of what is resampled; the same name, size and seed give the same counts.
        n_levels: Number of levels.
        n_resamples: Number of resamples B.
        seed: Seed of all random numbers.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    counts = generator.multinomial(n_levels, np.full(n_levels, 1 / max(n_levels, 1)), size=n_resamples)
    return counts.astype(np.float32)


def resample_deltas(rows: pl.DataFrame, items: Sequence[ItemBlock], settings: AnalysisConfig) -> Float32Array:
    """Return every row's delta on resampled items, in pp.

    Args:
        rows: N rows of the transfer table; a null ``delta_pp`` is NaN.
        items: Item-wise differences; rows without any keep their delta.
        settings: Number of resamples B and seed.

    Returns:
        Shape [N, B]; [N, 1] where no row has items, so that nothing is resampled.
    """
    deltas = rows["delta_pp"].cast(pl.Float32).fill_null(np.nan).to_numpy()[:, None]
    if not items:
        return deltas
    resampled = np.repeat(deltas, settings.bootstrap_resamples, axis=1)
    index = rows.select("model", *PAIR).with_row_index("row")
    for block in items:
        found = block.keys.with_row_index("place").join(index, on=["model", *PAIR], how="inner", validate="1:1")
        places, into = found["place"].to_numpy(), found["row"].to_numpy()
        counts = level_counts(
            f"items of {block.task}",
            len(block.item_ids),
            n_resamples=settings.bootstrap_resamples,
            seed=settings.seed,
        )
        shifted = deltas[into] + _item_shift(block.differences[places], block.scored[places], counts)
        resampled[into] = shifted.round(DRAW_DECIMALS)
    return resampled


def _item_shift(differences: Float32Array, scored: BoolArray, counts: Float32Array) -> Float32Array:
    """Return shape [n, B]: 100 x (mean difference of the items drawn - mean difference of all items)."""
    mean = differences.sum(axis=1) / np.maximum(scored.sum(axis=1), 1)
    total = differences @ counts.T
    if scored.all():
        weight: Float32Array | np.float32 = np.float32(scored.shape[1])
    else:
        weight = np.maximum(scored.astype(np.float32) @ counts.T, 1.0)
    shift: Float32Array = np.float32(100) * (total / weight - mean[:, None].astype(np.float32))
    return shift


class Draws(NamedTuple):
    """Some resamples of a table of N rows."""

    weights: Float32Array
    """Shape [N, C]: how often a row is in a resample."""
    deltas: Float32Array
    """Shape [N, C]: the row's delta in pp on the resampled items."""


class ClusterBootstrap:
    """Seeded resamples of some rows of a transfer table."""

    def __init__(self, rows: pl.DataFrame, deltas: Float32Array, settings: AnalysisConfig) -> None:
        """Prepare the resamples.

        Args:
            rows: N rows with model, source and target.
            deltas: Shape [N, B] or [N, 1], see `resample_deltas`; no NaN.
            settings: Number of resamples B and seed.
        """
        self._settings = settings
        self.deltas = deltas
        self.levels = {name: level_codes(rows, columns) for name, columns in FACTORS.items()}

    @property
    def has_items(self) -> bool:
        """Whether items are resampled too."""
        return bool(self.deltas.shape[1] > 1)

    @property
    def n_resamples(self) -> int:
        """Number of resamples B."""
        return self._settings.bootstrap_resamples

    def counts(self, factor: str) -> Float32Array:
        """Return shape [B, levels]: how often every level of a factor is drawn."""
        n_levels = int(self.levels[factor].max(initial=-1)) + 1
        return level_counts(factor, n_levels, n_resamples=self.n_resamples, seed=self._settings.seed)

    def parts(self) -> list[slice]:
        """Return which resamples are drawn together."""
        chunk = max(1, _CHUNK_ELEMENTS // max(len(self.deltas), 1))
        return [slice(start, min(start + chunk, self.n_resamples)) for start in range(0, self.n_resamples, chunk)]

    def draw(self, part: slice, counts: Mapping[str, Float32Array]) -> Draws:
        """Return some resamples, from the `counts` of the factors that are resampled besides the items."""
        weights = np.ones((len(self.deltas), part.stop - part.start), dtype=np.float32)
        for factor, table in counts.items():
            weights *= table[part].T[self.levels[factor]]
        deltas = self.deltas[:, part] if self.has_items else np.broadcast_to(self.deltas, weights.shape)
        return Draws(weights, deltas)


def centred_interval(
    draws: npt.NDArray[np.floating], estimates: npt.NDArray[np.floating], confidence: float
) -> Interval:
    """Return percentile intervals, moved so that the resamples' mean lies on the estimate.

    Resampling items adds noise to every delta, which pushes rates of wins and harms up in every resample; the width
    of the percentile interval is kept and this shift taken out.

    Args:
        draws: Shape [G, B]; NaN: the group was empty in that resample.
        estimates: Shape [G].
        confidence: Level, 0..1.
    """
    valid = np.isfinite(draws)
    enough = valid.mean(axis=1) >= MIN_VALID_SHARE
    low, high = np.full(len(draws), np.nan), np.full(len(draws), np.nan)
    tail = (1 - confidence) / 2
    complete = np.flatnonzero(valid.all(axis=1))
    values = draws[complete].astype(np.float64)
    shift = np.asarray(estimates)[complete] - values.mean(axis=1)
    low[complete], high[complete] = np.quantile(values, [tail, 1 - tail], axis=1) + shift
    for row in np.flatnonzero(enough & ~valid.all(axis=1)):
        known = draws[row][valid[row]].astype(np.float64)
        low[row], high[row] = np.quantile(known, [tail, 1 - tail]) + (estimates[row] - known.mean())
    return Interval(low, high)


def rate_interval(interval: Interval, rates: FloatArray, n_rows: IntArray) -> Interval:
    """Return intervals of rates, shape [G], inside 0..1; where all resamples agree, by the rule of three over rows."""
    none = interval.high == interval.low
    low = np.where(none, rates - RULE_OF_THREE / n_rows, interval.low)
    high = np.where(none, rates + RULE_OF_THREE / n_rows, interval.high)
    return Interval(np.clip(low, 0, 1), np.clip(high, 0, 1))
