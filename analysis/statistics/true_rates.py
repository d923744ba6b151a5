"""Rates of true effects: how many pairs truly help or harm, where observed deltas mix effects with noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import Float32Array, FloatArray, IntArray
from transfergrid.analysis.records import ALL_TRANSFER, PAIR, ItemBlock, in_regime
from transfergrid.analysis.statistics.levels import membership
from transfergrid.analysis.statistics.pair_noise import measure_noise
from transfergrid.analysis.statistics.reml import FitError
from transfergrid.analysis.statistics.shrinkage import shrink
from transfergrid.analysis.threads import side_by_side
from transfergrid.config.settings import AnalysisConfig

N_DRAWS = 500
"""Joint draws of all true deltas of a model."""


class Rates(NamedTuple):
    """A rate of G groups with its interval, shape [G] each; NaN: not known."""

    rate: FloatArray
    low: FloatArray
    high: FloatArray


def draw_true_deltas(rows: pl.DataFrame, items: Sequence[ItemBlock], settings: AnalysisConfig) -> Float32Array:
    """Return draws of every row's true delta given all observed ones of its model, in pp.

    Args:
        rows: N rows of the transfer table.
        items: Item-wise differences.
        settings: Seed of the draws.

    Returns:
        Shape [N, B]; NaN for rows without a delta, of MT-ML, and of a model whose noise is not known or whose pairs
        are too few to tell effects from noise.
    """
    drawn = np.full((rows.height, N_DRAWS), np.nan, dtype=np.float32)
    usable = pl.col("delta_pp").is_not_null() & in_regime(ALL_TRANSFER)
    numbered = rows.with_row_index("row").filter(usable).with_columns(n_models=pl.lit(1, dtype=pl.Int64))
    parts = [part.sort(PAIR) for part in numbered.partition_by("model", maintain_order=True)]

    def draw(pairs: pl.DataFrame) -> Float32Array | float:
        noise = measure_noise(pairs, pairs, items)
        if np.isnan(noise.own).any():
            return np.nan
        try:
            return shrink(pairs, pairs["delta_pp"].to_numpy(), noise, n_draws=N_DRAWS, seed=settings.seed).draws
        except FitError:
            return np.nan

    for pairs, found in zip(parts, side_by_side(draw, parts), strict=True):
        drawn[pairs["row"].to_numpy()] = found
    return drawn


def true_rates(
    truth: Float32Array, groups: Sequence[IntArray], *, harm_pp: float, confidence: float
) -> dict[str, Rates]:
    """Return the mean posterior rates of wins (above 0) and of harm (at or below the cut) of groups of rows.

    Args:
        truth: Shape [N, B], see `draw_true_deltas`.
        groups: Positions of the rows of G groups.
        harm_pp: The harm cut.
        confidence: Level of the intervals.

    Returns:
        ``win_rate_true`` and ``harm_rate_true``: mean over the draws and its quantiles; NaN where a row is not known.
    """
    sizes = np.array([len(group) for group in groups])
    member = membership(groups, len(truth))
    unknown = member @ np.isnan(truth[:, 0]).astype(np.float32) > 0
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    found = {}
    for name, event in (("win_rate_true", truth > 0), ("harm_rate_true", truth <= np.float32(harm_pp))):
        rates = (member @ event.astype(np.float32)) / np.maximum(sizes, 1)[:, None]
        ends = [rates.mean(axis=1, dtype=np.float64), *np.quantile(rates, tails, axis=1)]
        found[name] = Rates(*(np.where(unknown, np.nan, end) for end in ends))
    return found
