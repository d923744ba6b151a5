"""The items that every pair of an adaptive evaluation has: what is compared between pairs is compared on these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from transfergrid.grid import Cell
from transfergrid.store.adaptive import common_slice
from transfergrid.store.score_store import Origin, StoredCell

_TASK = ("model", "target_task")


def partial_tasks(stored: Mapping[tuple[Origin, Cell], StoredCell]) -> set[tuple[str, str]]:
    """Return model and target task of every cell of which items are left out."""
    return {(origin.model, target.task) for (origin, target), cell in stored.items() if cell.is_short}


def common_rows(scores: pl.LazyFrame, partial: Iterable[tuple[str, str]]) -> pl.LazyFrame:
    """Leave out what not every pair has: stopped pairs were chosen by their items, so that their means are biased.

    Args:
        scores: Item rows in SCORE_SCHEMA.
        partial: See `partial_tasks`; rows of other models and tasks stay as they are.
    """
    tasks = pl.DataFrame(sorted(partial), schema=dict.fromkeys(_TASK, pl.String), orient="row").lazy()
    if not partial:
        return scores
    of_adapters = scores.filter(pl.col("seed").is_not_null()).join(tasks, on=_TASK, how="semi")
    ids = of_adapters.select(*_TASK, "seed", "item_id").unique().collect()
    common = {  # a seed may have items of its own
        (model, task, item_id)
        for (model, task, _), part in ids.partition_by(*_TASK, "seed", as_dict=True).items()
        for item_id in common_slice(part["item_id"].to_list())
    }
    kept = pl.DataFrame(sorted(common), schema=dict.fromkeys((*_TASK, "item_id"), pl.String), orient="row").lazy()
    whole = scores.join(tasks, on=_TASK, how="anti")
    return pl.concat([whole, scores.join(kept, on=[*_TASK, "item_id"], how="semi")])
