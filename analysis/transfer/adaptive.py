"""Adaptive evaluations: all numbers over the items that every pair has, the final tests over all items of a pair.

A stopped pair was chosen by its own items, so a mean over what it has is biased, and so is that of a pair that went on.
The items before the first look are the same for all pairs, and nothing was chosen by then: numbers over these are
unbiased in every table. The test at the last item keeps its level, since stopping only takes rejections away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from transfergrid.analysis.records import EVERY_KEY, TARGET
from transfergrid.analysis.transfer.by_seed import with_q
from transfergrid.grid import BASELINE_NAME, Cell
from transfergrid.store.adaptive import FIRST_LOOK
from transfergrid.store.common_items import common_rows, partial_tasks
from transfergrid.store.score_store import Origin, Scan, StoredCell, read_footers

TESTED, STOPPED = "tested", "stopped"
"""Decisions on a pair of an adaptive evaluation; null: all its items were to be scored, and were."""
_SEED_KEY = ("model", "seed", "source", *TARGET)
_FINAL = ("n_items", "delta_pp", "se_pp")
DECISION_SCHEMA = {
    "decision": pl.String,
    "tested_n_items": pl.Int64,
    "tested_delta_pp": pl.Float64,
    "tested_se_pp": pl.Float64,
}
"""Columns of the transfer tables that say what an adaptive evaluation decided; null without one."""

Tables = tuple[pl.DataFrame, pl.DataFrame]
"""The transfer table by seed, and averaged over seeds."""


class Stopping(NamedTuple):
    """What an adaptive evaluation left out of a run's item rows."""

    partial: frozenset[tuple[str, str]]
    """Model and target task of every pair that has fewer items than planned; none: nothing was left out."""
    decisions: pl.DataFrame
    """One row per (model, seed, source, target) of these: its decision, and its items as scored and as planned."""

    @property
    def remark(self) -> str:
        """What was saved, what was not decided, and what the numbers are over."""
        n_stopped = self.decisions.filter(decision=STOPPED).height
        scored, planned = (float(self.decisions[name].sum() or 0) for name in ("n_scored", "n_planned"))
        return (
            f"adaptive evaluation: {n_stopped:,} of {self.decisions.height:,} pairs of adapter and target stopped "
            f"early and are not decided (p = 1), which saved {1 - scored / max(planned, 1):.0%} of the items; pairs "
            "that went on are tested over all their items; every other number is over the first "
            f"{FIRST_LOOK} items of every pair"
        )

    def common(self, scores: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows that all pairs have."""
        return common_rows(scores, self.partial)

    def with_final_tests(self, tables: Tables, scores: pl.LazyFrame, read: Callable[[pl.LazyFrame], Tables]) -> Tables:
        """Put the final tests in place of those over common items; several seeds are tested where all went on.

        Args:
            tables: Over common items.
            scores: All item rows.
            read: Makes the tables of item rows.
        """
        decisions = self.decisions.drop("n_scored", "n_planned")
        complete = decisions.filter(decision=TESTED)
        went_on = scores.join(complete.lazy(), on=list(_SEED_KEY), how="semi")
        baselines = scores.filter(pl.col("source") == BASELINE_NAME)
        final = tables[0].clear(), tables[1].clear()
        if complete.height:
            final = read(pl.concat([went_on, baselines]))
        every_seed = pl.when((pl.col("decision") == TESTED).all()).then(pl.lit(TESTED)).otherwise(pl.lit(STOPPED))
        of_pairs = decisions.group_by(EVERY_KEY).agg(decision=every_seed)
        by_seed = _decide(tables[0], final[0], decisions, "mcnemar_p")
        return with_q(by_seed, "mcnemar_p", "mcnemar_q"), _decide(tables[1], final[1], of_pairs, "p_value")


def read_cells(folder: Path) -> dict[tuple[Origin, Cell], StoredCell]:
    """Return what a store's parts hold, by their footers alone; nothing if every cell was scored at once."""
    parts, _ = read_footers(folder)
    is_sliced = any(cell.start is not None for part in parts for cell in part.cells)
    return Scan(tuple(parts)).cells() if is_sliced else {}


def read_stopping(stored: Mapping[tuple[Origin, Cell], StoredCell]) -> Stopping:
    """Return what was left out of the store's cells."""
    partial = frozenset(partial_tasks(stored))
    rows = [
        (
            *(origin.model, origin.seed, origin.source.name, cell.task, cell.language),
            *(STOPPED if each.is_short else TESTED, each.n_items, each.n_planned),
        )
        for (origin, cell), each in stored.items()
        if (origin.model, cell.task) in partial and origin.seed is not None
    ]
    numbers = dict.fromkeys(("seed", "n_scored", "n_planned"), pl.Int64)
    schema = {**dict.fromkeys((*_SEED_KEY, "decision"), pl.String), **numbers}
    return Stopping(partial, pl.DataFrame(rows, schema=schema, orient="row"))


def with_tested(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with deltas and errors as they were tested, over all items of a pair where it went on."""
    there = [name for name in _FINAL if f"tested_{name}" in rows.columns]
    return rows.with_columns(pl.coalesce(f"tested_{name}", name).alias(name) for name in there)


def with_decisions(table: pl.DataFrame, stopping: Stopping) -> pl.DataFrame:
    """Add the columns of `DECISION_SCHEMA` that a table lacks, null, as its last ones, and say it in ``remark``."""
    lacking = {name: dtype for name, dtype in DECISION_SCHEMA.items() if name not in table.columns}
    rest = [name for name in table.columns if name not in DECISION_SCHEMA]
    whole = table.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in lacking.items())
    said = pl.when(pl.col("decision").is_not_null()).then(pl.lit(stopping.remark))
    return whole.with_columns(remark=pl.coalesce("remark", said)).select(*rest, *DECISION_SCHEMA)


def _decide(table: pl.DataFrame, final: pl.DataFrame, decisions: pl.DataFrame, p_column: str) -> pl.DataFrame:
    """Take p from the final tests, 1 for stopped pairs."""
    key = [name for name in _SEED_KEY if name in decisions.columns]
    known = [name for name in (*_FINAL, p_column) if name in final.columns]
    tests = final.select(*key, *(pl.col(name).alias(f"tested_{name}") for name in known))
    found = table.join(decisions, on=key, how="left", validate="1:1", maintain_order="left")
    found = found.join(tests, on=key, how="left", validate="1:1", maintain_order="left")
    decision, own = pl.col("decision"), pl.col(p_column)
    tested = pl.when(decision == TESTED).then(f"tested_{p_column}").otherwise(own)
    p_value = pl.when(decision == STOPPED).then(pl.when(own.is_not_null()).then(1.0)).otherwise(tested)
    of_tested = (pl.when(decision == TESTED).then(f"tested_{name}").alias(f"tested_{name}") for name in known)
    return found.with_columns(p_value.alias(p_column), *of_tested).drop(f"tested_{p_column}")
