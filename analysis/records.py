"""Columns and records that the tables share."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from transfergrid.analysis.arrays import BoolArray, Float32Array
from transfergrid.grid import TRANSFER_REGIMES, VARIANT_KIND, Cell, Regime

SOURCE = ("source_task", "source_language")
TARGET = ("target_task", "target_language")
PAIR = (*SOURCE, *TARGET)
ROW = ("model", "seed", *PAIR)
"""Key of one row of the transfer table by seed."""
IS_SINGLE = pl.col("source_task").is_not_null()
"""Whether a row is of a usual single-cell adapter."""
ALL_TRANSFER = "all transfer"
"""The three transfer regimes together, without MT-ML."""
EVERY_REGIME = (ALL_TRANSFER, *(regime.value for regime in Regime))
KEY = ("model", *PAIR)
"""Key of one row of the transfer table that is of a single-cell source."""
EVERY_KEY = ("model", "source", *TARGET)
"""Key of one row of the transfer table, whatever its kind of source."""


@dataclass(frozen=True, slots=True)
class ItemBlock:
    """Item-wise differences of all rows of one model or of all models on one target task."""

    task: str
    keys: pl.DataFrame
    """Shape [N] rows: model, source and target of every row; the columns of `KEY` and ``source``."""
    item_ids: tuple[str, ...]
    """Shape [I], sorted; the same items in every language."""
    differences: Float32Array
    """Shape [N, I]: (adapter right - baseline right), mean over the seeds in which both were scored; 0 if never."""
    scored: BoolArray
    """Shape [N, I]: whether both were scored in a seed."""


def at_target(target: Cell) -> pl.Expr:
    """Return whether a row's target is a cell."""
    return (pl.col("target_task") == target.task) & (pl.col("target_language") == target.language)


def cell_name(side: str) -> pl.Expr:
    """Return the name of a row's cell as ``source`` or as ``target``."""
    return pl.concat_str(f"{side}_task", f"{side}_language", separator="-")


def in_regime(regime: str) -> pl.Expr:
    """Return whether a row belongs to a regime or to ``all transfer``."""
    if regime == ALL_TRANSFER:
        return pl.col("regime").is_in([each.value for each in TRANSFER_REGIMES])
    return pl.col("regime") == regime


@dataclass(frozen=True, slots=True)
class Transfer:
    """The two transfer tables and the items behind them."""

    by_seed: pl.DataFrame
    """One row per (model, seed, source, target) with item rows; missing and failed ones have a ``reason``."""
    rows: pl.DataFrame
    """One row per (model, single-cell source, target), sorted by `KEY`; null ``delta_pp`` has a ``reason``."""
    items: tuple[ItemBlock, ...]
    """Item-wise differences, one block per target task; none for imported aggregates."""
    unscored_models: tuple[str, ...] = ()
    """Models of the configuration without any score, where the store has scores of others."""
    other_kinds: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Rows of other kinds of sources, in the columns of ``rows``; no table of single-cell sources takes them."""
    other_sources: pl.DataFrame = field(default_factory=pl.DataFrame)
    """One row per other source: ``source``, ``source_kind``, ``source_cells``, ``method`` (of a merge)."""
    every_item: tuple[ItemBlock, ...] = ()
    """Item-wise differences of all kinds of sources, keyed by `EVERY_KEY`."""
    trainings: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Of a run with variants one row per model and trained source: ``n_weights`` and ``train_s``."""
    graded_items: tuple[ItemBlock, ...] = ()
    """What items add to graded transfer, blocks as in ``items``; only of pairs that have it."""

    @property
    def has_variants(self) -> bool:
        """Whether a source was trained by another recipe than the main one."""
        return self.other_kinds.height > 0 and VARIANT_KIND in self.other_kinds["source_kind"]

    @property
    def every_row(self) -> pl.DataFrame:
        """The rows of all kinds of sources."""
        return pl.concat([self.rows, self.other_kinds]) if self.other_kinds.height else self.rows
