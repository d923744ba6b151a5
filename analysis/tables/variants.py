"""Variants of the recipe against the main one, paired on the same items."""

from __future__ import annotations

import polars as pl

from transfergrid.analysis.mixing.contrasts import compare
from transfergrid.analysis.records import ALL_TRANSFER, EVERY_KEY, TARGET
from transfergrid.analysis.tables.table import (
    CONFIDENCE,
    MODEL,
    REASON,
    Column,
    Table,
    TableInputs,
    with_ends,
)
from transfergrid.config.training import MAIN
from transfergrid.grid import IN_MIX, TRANSFER_REGIMES, VARIANT_KIND, Regime
from transfergrid.store.scores import VARIANT

_GROUP = ["model", "variant", "of", "regime"]
_REGIMES = {name: place for place, name in enumerate((ALL_TRANSFER, *(each.value for each in Regime), IN_MIX))}


def with_variant(table: pl.DataFrame, has_variants: bool) -> pl.DataFrame:
    """Add the variant of every row's source to a table of a run with variants; `MAIN`: the main recipe."""
    if not has_variants or "variant" in table.columns:
        return table
    found = VARIANT.fill_null(MAIN) if "source" in table.columns else pl.lit(MAIN)
    return table.with_columns(variant=found)


def variants_table(inputs: TableInputs) -> pl.DataFrame:
    """Return every variant's means by model, kind of source and regime, against those of the main recipe."""
    pairs = _pairs(inputs)
    if pairs.is_empty():
        return pairs
    harm = inputs.settings.harm_threshold_pp
    transfer = pairs.filter(pl.col("regime").is_in([each.value for each in TRANSFER_REGIMES]))
    grouped = pl.concat([transfer.with_columns(regime=pl.lit(ALL_TRANSFER)), pairs])
    found = grouped.group_by(_GROUP, maintain_order=True).agg(
        "contrast",
        *(pl.col(name).mean() for name in ("delta_pp", "main_delta_pp", "train_s", "main_train_s")),
        *(pl.col(name).mean().round() for name in ("n_weights", "main_n_weights")),
        *(
            rate.mean().alias(f"{side}{name}_rate")
            for side in ("", "main_")
            for name, rate in (("win", pl.col(f"{side}delta_pp") > 0), ("harm", pl.col(f"{side}delta_pp") <= harm))
        ),
    )
    groups = found.with_row_index("group").select(pl.col("group").cast(pl.Int64), "contrast").explode("contrast")
    compared = compare(
        _members(pairs), groups, inputs.transfer.every_item, inputs.transfer.by_seed, inputs.settings.confidence
    )
    ends = [pl.col(f"{end}_pp").alias(f"minus_main_pp_{end}") for end in ("low", "high")]
    numbers = ("n_pairs", "n_items", "n_seeds", "reason")
    frame = found.with_columns(
        compared.select(*numbers, pl.col("difference_pp").alias("minus_main_pp"), *ends),
        confidence=pl.lit(inputs.settings.confidence),
        harm_threshold_pp=pl.lit(harm),
    )
    place = pl.col("regime").replace_strict(_REGIMES, return_dtype=pl.Int64)
    return frame.sort("model", "variant", "of", place)


def _pairs(inputs: TableInputs) -> pl.DataFrame:
    """Return one row per (model, variant's source, target): both deltas, both recipes' costs, ``contrast``."""
    transfer = inputs.transfer
    if transfer.other_kinds.is_empty():
        return pl.DataFrame()
    key = ["model", "source", *TARGET]
    rows = transfer.other_kinds.filter((pl.col("source_kind") == VARIANT_KIND) & pl.col("delta_pp").is_not_null())
    own = rows.select(*key, "regime", "delta_pp", variant=VARIANT, main=pl.col("source").str.extract("^(.+)@"))
    main = transfer.every_row.select("model", *TARGET, main="source", of="source_kind", main_delta_pp="delta_pp")
    pairs = own.join(main, on=["model", *TARGET, "main"], validate="m:1").drop_nulls("main_delta_pp")
    costs = transfer.trainings
    pairs = pairs.join(costs, on=["model", "source"], how="left", validate="m:1")
    of_main = costs.select("model", main="source", main_n_weights="n_weights", main_train_s="train_s")
    pairs = pairs.join(of_main, on=["model", "main"], how="left", validate="m:1")
    return pairs.sort(*key).with_row_index("contrast").with_columns(pl.col("contrast").cast(pl.Int64))


def _members(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return both sources of every comparison."""
    sides = [pairs.with_columns(source=name, weight=pl.lit(sign)) for name, sign in (("source", 1.0), ("main", -1.0))]
    return pl.concat(sides).select("contrast", *EVERY_KEY, "weight")


_OF_MAIN = "The same of the main recipe, on the same pairs."
_COLUMNS = (
    MODEL,
    Column("variant", pl.String, "", "Name of the recipe in the configuration."),
    Column("of", pl.String, "", "Kind of the sources that both recipes trained: `cell` or `mixture`."),
    Column("regime", pl.String, "", "Relation of source to target; `all transfer`: MT-CL, CT-ML and CT-CL together."),
    Column("n_pairs", pl.Int64, "pairs", "Pairs of source and target that both recipes have and that are compared."),
    Column("n_items", pl.Int64, "items", "Different items that the comparison is of."),
    Column("n_seeds", pl.Int64, "seeds", "Training seeds of the comparison; one seed says nothing about another."),
    Column("delta_pp", pl.Float64, "pp", "Mean delta of the variant over the pairs."),
    Column("main_delta_pp", pl.Float64, "pp", _OF_MAIN),
    *with_ends(Column("minus_main_pp", pl.Float64, "pp", "Mean difference of the two, paired on the same items.")),
    Column("win_rate", pl.Float64, "0..1", "Share of the pairs whose observed delta is above 0, noise included."),
    Column("main_win_rate", pl.Float64, "0..1", _OF_MAIN),
    Column("harm_rate", pl.Float64, "0..1", "Share at or below the harm cut, noise included."),
    Column("main_harm_rate", pl.Float64, "0..1", _OF_MAIN),
    Column("harm_threshold_pp", pl.Float64, "pp", "The harm cut (setting)."),
    Column("n_weights", pl.Int64, "weights", "Trainable parameters of a source, mean; null: not in the run folder."),
    Column("main_n_weights", pl.Int64, "weights", _OF_MAIN),
    Column(
        "train_s",
        pl.Float64,
        "s",
        "Training and validation of a source, mean: wall seconds divided by the adapters in one pass.",
    ),
    Column("main_train_s", pl.Float64, "s", _OF_MAIN),
    CONFIDENCE,
    REASON,
)

VARIANTS = Table(
    name="variants",
    row="model, variant, kind of source, regime",
    estimand=(
        "How the change by training by another recipe compares with the change by the main one, over items like the "
        "targets', for these sources and targets; with several seeds for these two ways of training."
    ),
    columns=_COLUMNS,
    shown="model variant of regime n_pairs delta_pp main_delta_pp minus_main_pp minus_main_pp_low minus_main_pp_high "
    "n_weights train_s",
    build=variants_table,
)
