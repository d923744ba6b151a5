"""Levels of factors as codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import sparse

from transfergrid.analysis.arrays import IntArray


def level_codes(rows: pl.DataFrame, columns: Sequence[str]) -> IntArray:
    """Return the level of every row, codes 0.. in the order of the levels' names, shape [N]."""
    ranks = rows.select(pl.struct(columns).rank("dense") - 1).to_series()
    return ranks.to_numpy().astype(np.intp)


def count_levels(codes: IntArray) -> int:
    """Return how many different codes occur."""
    return int(np.count_nonzero(np.bincount(codes)))


def membership(groups: Sequence[IntArray], n_rows: int) -> sparse.csr_array:
    """Return shape [G, n_rows], float32: 1 where a row is in a group, from the places of every group's rows."""
    columns = np.concatenate([*groups, np.zeros(0, dtype=np.intp)])
    starts = np.cumsum([0, *map(len, groups)])
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_array((ones, columns.astype(np.intp), starts), shape=(len(groups), n_rows))
