"""Sources of several cells against their parts: mixtures, and merges against mixtures of the same cells."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from transfergrid.analysis.mixing.contrasts import compare
from transfergrid.analysis.records import EVERY_KEY, TARGET
from transfergrid.analysis.tables.table import (
    CONFIDENCE,
    MODEL,
    PAIR_COLUMNS,
    REASON,
    Column,
    Table,
    TableInputs,
    with_ends,
)
from transfergrid.grid import MERGE_KIND, MIXTURE_KIND

ALL_MIXTURES, ALL_MERGES = "all mixtures", "all merges"
"""Names of the rows that are means over sources and targets."""
_ROW = ["model", "source", *TARGET]


def mixtures_table(inputs: TableInputs) -> pl.DataFrame:
    """Return the means of a model and regime, then every mixture on every target, against the parts."""
    rows = _with_parts(inputs, MIXTURE_KIND)
    return _compared(inputs, rows, ("mean", "best", "sum"), ["model", "regime"], MIXTURES)


def merges_table(inputs: TableInputs) -> pl.DataFrame:
    """Return the means of a method and regime, then every merge on every target, against the parts and the mixture."""
    rows = _with_parts(inputs, MERGE_KIND)
    trained = (
        _with_parts(inputs, MIXTURE_KIND)
        .select("model", "cells", *TARGET, together="source", together_pp="delta_pp")
        .sort("together")
        .unique(["model", "cells", *TARGET], keep="first", maintain_order=True)
    )
    rows = rows.join(trained, on=["model", "cells", *TARGET], how="left", maintain_order="left", validate="m:1")
    return _compared(inputs, rows, ("mean", "together"), ["model", "method", "regime"], MERGES)


def _with_parts(inputs: TableInputs, kind: str) -> pl.DataFrame:
    """Return the transfer rows of one kind with the sorted names of their cells and the parts' deltas."""
    transfer = inputs.transfer
    if transfer.other_kinds.is_empty():
        rows = transfer.rows.head(0).with_columns(cells=pl.lit(""), method=pl.lit(""))
    else:
        cells = pl.col("source_cells").str.split(" ").list.sort().list.join(" ")
        known = transfer.other_sources.select("source", "method", cells=cells)
        rows = transfer.other_kinds.filter(pl.col("source_kind") == kind).join(known, on="source", validate="m:1")
    parts = (
        rows.select(*_ROW, part=pl.col("cells").str.split(" "))
        .explode("part")
        .join(
            transfer.rows.select("model", *TARGET, part="source", part_pp="delta_pp"),
            on=["model", *TARGET, "part"],
            how="left",
        )
        .sort("part_pp", "part", descending=[True, False], nulls_last=True)
        .group_by(_ROW)
        .agg(
            pl.col("part").sort().alias("parts"),
            best_part=pl.col("part").first(),
            best_part_pp=pl.col("part_pp").first(),
            parts_sum_pp=pl.col("part_pp").sum(),
            is_whole=pl.col("part_pp").is_not_null().all(),
        )
        .with_columns(
            pl.when("is_whole").then(name).alias(name) for name in ("best_part", "best_part_pp", "parts_sum_pp")
        )
    )
    joined = rows.join(parts, on=_ROW, how="left", maintain_order="left", validate="1:1")
    return joined.with_columns(parts_mean_pp=pl.col("parts_sum_pp") / pl.col("parts").list.len())


def _compared(
    inputs: TableInputs, rows: pl.DataFrame, against: Sequence[str], pooled_by: Sequence[str], table: Table
) -> pl.DataFrame:
    """Add the paired differences and the rows of means, in the columns of a table."""
    rows = rows.sort(_ROW).with_row_index("contrast").with_columns(pl.col("contrast").cast(pl.Int64))
    pooled = rows.group_by(pooled_by, maintain_order=True).agg(
        pl.col("contrast"), *(pl.col(name).mean() for name in _means(rows)), source=pl.lit(_POOLED[table.name])
    )
    frame = pl.concat([rows.drop("contrast"), pooled.drop("contrast")], how="diagonal_relaxed")
    alone = rows.select(group="contrast", contrast="contrast")
    together = pooled.with_row_index("group", offset=rows.height).select(pl.col("group").cast(pl.Int64), "contrast")
    groups = pl.concat([alone, together.explode("contrast")])
    for name in against:
        found = compare(
            _members(rows, name),
            groups,
            inputs.transfer.every_item,
            inputs.transfer.by_seed,
            inputs.settings.confidence,
        )
        ends = [pl.col(f"{end}_pp").alias(f"minus_{name}_pp_{end}") for end in ("low", "high")]
        frame = frame.with_columns(found.select(pl.col("difference_pp").alias(f"minus_{name}_pp"), *ends))
        if name == "mean":
            frame = frame.with_columns(found.select("n_pairs", "n_items", "n_seeds", "reason"))
    frame = frame.with_columns(confidence=pl.lit(inputs.settings.confidence))
    order = [*pooled_by[:1], pl.col("target_task").is_not_null(), *_ROW[1:]]
    return frame.sort(order, nulls_last=True, maintain_order=True)


def _means(rows: pl.DataFrame) -> list[str]:
    return [
        name
        for name in ("delta_pp", "parts_mean_pp", "parts_sum_pp", "best_part_pp", "together_pp")
        if name in rows.columns
    ]


def _members(rows: pl.DataFrame, against: str) -> pl.DataFrame:
    """Return the members of every row's comparison: the source itself, and what it is compared with."""
    key = ["contrast", "model", *TARGET]
    itself = rows.select(*key, "source", weight=pl.lit(1.0))
    if against in ("best", "together"):
        other = "best_part" if against == "best" else "together"
        weights = rows.select(*key, source=pl.col(other).fill_null(""), weight=pl.lit(-1.0))
    else:
        share = -1 / pl.col("parts").list.len() if against == "mean" else pl.lit(-1.0)
        weights = rows.select(*key, source="parts", weight=share).explode("source")
    return pl.concat([itself, weights.select(itself.columns)]).select("contrast", *EVERY_KEY, "weight")


def _difference(name: str, other: str) -> tuple[Column, ...]:
    return with_ends(
        Column(f"minus_{name}_pp", pl.Float64, "pp", f"`delta_pp` minus {other}, paired on the same items.")
    )


_SOURCE_OF = Column("cells", pl.String, "", "Cells it is of; null in a row of means.")
_N = (
    Column("n_pairs", pl.Int64, "pairs", "Pairs of source and target that the comparison with the parts is of."),
    Column("n_items", pl.Int64, "items", "Different items that the comparison is of."),
    Column("n_seeds", pl.Int64, "seeds", "Training seeds of the comparison; one seed says nothing about another."),
)
_REGIME = Column(
    "regime",
    pl.String,
    "",
    "IN-MIX: the target is one of the cells; else the nearest relation of any: MT-CL, CT-ML, CT-CL.",
)
_DELTA = Column("delta_pp", pl.Float64, "pp", "100 x (adapter score - base score), mean over seeds.")
_MEAN = Column(
    "parts_mean_pp", pl.Float64, "pp", "Mean delta of the parts, the adapters of its cells, on the same target."
)
_OF_BOTH = (_SOURCE_OF, *PAIR_COLUMNS[2:], _REGIME, *_N, _DELTA, _MEAN)

MIXTURES = Table(
    name="mixtures",
    row="model, mixture, target; and means of a model and regime over mixtures and targets",
    estimand=(
        "How the change by training on several cells together compares with the changes by training on each alone, "
        "over items like the target's, for these adapters; with several seeds for this way of training."
    ),
    columns=(
        MODEL,
        Column("source", pl.String, "", f"Name of the mixture; `{ALL_MIXTURES}` in a row of means."),
        *_OF_BOTH,
        *_difference("mean", "the parts' mean (above 0: better than its parts on average; below: they interfere)"),
        Column("best_part", pl.String, "", "The part with the highest delta here."),
        Column(
            "best_part_pp", pl.Float64, "pp", "Its delta; it was picked by this number, which is too high for that."
        ),
        *_difference("best", "that of the best part, which is too low for the same reason"),
        Column("parts_sum_pp", pl.Float64, "pp", "Sum of the parts' deltas: what the mix would do if they added up."),
        *_difference("sum", "that sum: 0 where the parts add up"),
        CONFIDENCE,
        REASON,
    ),
    shown="model source target_task target_language regime delta_pp parts_mean_pp minus_mean_pp best_part_pp",
    build=mixtures_table,
)

MERGES = Table(
    name="merges",
    row="model, merge, target; and means of a model, method and regime over merges and targets",
    estimand=(
        "How an adapter that is merged from others compares with theirs and with one that is trained on the same cells "
        "together, over items like the target's, for these adapters; with several seeds for this way of training."
    ),
    columns=(
        MODEL,
        Column("source", pl.String, "", f"Name of the merge; `{ALL_MERGES}` in a row of means."),
        Column("method", pl.String, "", "How it was merged; null where no record in the run folder says it."),
        *_OF_BOTH,
        *_difference("mean", "the parts' mean, whatever the weights of the merge"),
        Column(
            "together", pl.String, "", "Mixture of the same cells; of several the first by name; null: none was scored."
        ),
        Column("together_pp", pl.Float64, "pp", "Its delta on the same target."),
        *_difference("together", "that of the mixture: 0 where merging does what training together does"),
        CONFIDENCE,
        REASON,
    ),
    shown="model source method target_task target_language regime delta_pp minus_mean_pp minus_together_pp",
    build=merges_table,
)

_POOLED = {MIXTURES.name: ALL_MIXTURES, MERGES.name: ALL_MERGES}
