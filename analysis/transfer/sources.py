"""The sources in the transfer tables: kind, cells, and whether a single-source table takes them."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from transfergrid.analysis.records import ItemBlock
from transfergrid.grid import Cell, Source, UserError
from transfergrid.store.scores import SOURCE_COLUMNS, source_columns

IS_SINGLE = pl.col("source_task").is_not_null()
"""Whether a row is of a usual single-cell adapter."""
_SCHEMA = pl.Schema(dict.fromkeys(("source_task", "source_language", *SOURCE_COLUMNS), pl.String()))


def read_sources(scores: pl.LazyFrame, names: Iterable[str]) -> pl.DataFrame:
    """Return one row per source: `SOURCE_COLUMNS`, and task and language of single-cell adapters.

    Args:
        scores: Item rows in SCORE_SCHEMA; read only for names that are not a cell's.
        names: Names of sources, without the base.

    Raises:
        UserError: If one name stands for two kinds of source, or for other cells in another part.
    """
    plain, others = [], []
    for name in sorted(set(names)):
        try:
            plain.append(source_columns(Source.of(Cell.parse(name))))
        except UserError:
            others.append(name)
    known = pl.DataFrame(plain, schema=_SCHEMA)
    if not others:
        return known
    found = scores.filter(pl.col("source").is_in(others)).select(_SCHEMA.names()).unique().collect().sort(pl.all())
    repeated = found.filter(pl.col("source").is_duplicated())
    if repeated.height:
        first, second = repeated.head(2).select("source_kind", "source_cells").rows()
        raise UserError(
            f"source {repeated['source'][0]!r} is {first[0]!r} of {first[1]!r} in one part of the store and "
            f"{second[0]!r} of {second[1]!r} in another; score them under two names"
        )
    return pl.concat([known, found])


def single_blocks(blocks: Iterable[ItemBlock], sources: pl.DataFrame) -> tuple[ItemBlock, ...]:
    """Return the blocks with the rows of single-cell adapters only, and with these cells in their keys."""
    cells = sources.select("source", "source_task", "source_language")
    kept = []
    for block in blocks:
        keys = block.keys.join(cells, on="source", how="left", maintain_order="left", validate="m:1")
        single = keys.select(IS_SINGLE).to_series().to_numpy()
        if single.all():
            kept.append(ItemBlock(block.task, keys, block.item_ids, block.differences, block.scored))
        elif single.any():
            differences, scored = block.differences[single], block.scored[single]
            kept.append(ItemBlock(block.task, keys.filter(single), block.item_ids, differences, scored))
    return tuple(kept)
