"""Graded transfer of groups of rows: means with intervals, and rates of what the test finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from transfergrid.analysis.records import ItemBlock
from transfergrid.analysis.statistics.bootstrap import FACTORS
from transfergrid.analysis.statistics.group_draws import Group
from transfergrid.analysis.statistics.group_intervals import interval_factors
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.multiway import mean_intervals
from transfergrid.analysis.statistics.significance import holds_fdr
from transfergrid.config.settings import AnalysisConfig


def graded_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that have graded transfer, with it and its errors in the columns of the delta."""
    there = rows.filter(pl.col("graded_pp").is_not_null())
    return there.with_columns(delta_pp="graded_pp", se_pp="graded_se_pp", q_value="graded_q")


def graded_of_groups(
    rows: pl.DataFrame, groups: Sequence[Group], items: Sequence[ItemBlock], settings: AnalysisConfig
) -> pl.DataFrame:
    """Return mean graded transfer with its interval and the share of rows with q <= ``fdr``, one row per group.

    Args:
        rows: Transfer table, N rows.
        groups: G groups of those rows.
        items: What items add to graded transfer.
        settings: Level of the intervals and false discovery rate.
    """
    there = rows["graded_pp"].is_not_null().to_numpy()
    place = np.cumsum(there) - 1
    indices = [place[group.index[there[group.index]]] for group in groups]
    filled = [number for number, index in enumerate(indices) if len(index)]
    part = graded_rows(rows)
    codes = {name: level_codes(part, FACTORS[name]) for name in ("sources", "targets")}
    kept = [Group(groups[number].regime, groups[number].by, groups[number].name, indices[number]) for number in filled]
    factors = [interval_factors(codes, group) for group in kept]
    ends = np.full((2, len(groups)), np.nan)
    ends[:, filled] = mean_intervals(
        part, items, [group.index for group in kept], factors=factors, confidence=settings.confidence
    )
    values = part["delta_pp"].to_numpy()
    sure = holds_fdr(part["q_value"].fill_null(np.nan).to_numpy(), settings.fdr)

    def means(numbers: np.ndarray) -> pl.Series:
        return pl.Series([float(numbers[index].mean()) if len(index) else None for index in indices], dtype=pl.Float64)

    low, high = (pl.Series(each).fill_nan(None) for each in ends)
    return pl.DataFrame(
        {
            "n_graded": pl.Series([len(index) for index in indices], dtype=pl.Int64),
            "graded_mean_pp": means(values),
            "graded_mean_pp_low": low,
            "graded_mean_pp_high": high,
            "graded_loss_rate_significant": means(sure & (values < 0)),
            "graded_win_rate_significant": means(sure & (values > 0)),
        }
    )
