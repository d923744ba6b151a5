"""The transfer tables as they are written: averaged over seeds, of every seed, and what has no delta."""

from __future__ import annotations

import polars as pl

from transfergrid.analysis.records import Transfer
from transfergrid.analysis.tables.table import (
    MODEL,
    PAIR_COLUMNS,
    REASON,
    REGIME,
    REMARK,
    SEED,
    SOURCE_KIND,
    SOURCE_NAME,
    Column,
    Table,
    with_ends,
)
from transfergrid.analysis.transfer.table import NO_MODEL

_METRIC = Column("primary_metric", pl.String, "", "Metric of the scores: `acc` or `acc_norm`, by task.")
_SCORES = (
    Column("base_score", pl.Float64, "0..1", "Share of the compared items that the base model answers right."),
    Column("adapter_score", pl.Float64, "0..1", "Share of the same items that the adapter answers right."),
)
_GRADED = Column(
    "graded_pp", pl.Float64, "pp", "100 x mean change of the gold choice's probability, temperatures matched."
)
_GRADED_SE = Column("graded_se_pp", pl.Float64, "pp", "Standard error of `graded_pp`, the matched temperature's in it.")
_GRADED_REST = (
    Column("temperature_ratio", pl.Float64, "ratio", "Matched temperature of the adapter over the base's."),
    Column(
        "register_nats_per_char",
        pl.Float64,
        "nats/char",
        "Change of the gold choice's log-likelihood per character: adaptation to the register, no better answers.",
    ),
    Column(
        "others_nats_per_char",
        pl.Float64,
        "nats/char",
        "The same of the other choices, the mean over those of an item: as large where only the register was learnt.",
    ),
    Column("graded_reason", pl.String, "", "Why there is no graded transfer."),
)
_FLIPS = Column(
    "n_flips_noise_floor", pl.Int64, "items", "Predictions of the base that change between two scorings of the target."
)
_DECISIONS = (
    Column(
        "decision",
        pl.String,
        "",
        "Of an adaptive evaluation: `tested`, or `stopped` before its last item (or not finished), with p = 1.",
    ),
    Column("tested_n_items", pl.Int64, "items", "Items that a `tested` pair is tested on, the fewest over seeds."),
    Column(
        "tested_delta_pp",
        pl.Float64,
        "pp",
        "Delta of a `tested` pair over these items; too large on average, since it is one of those that went on.",
    ),
    Column("tested_se_pp", pl.Float64, "pp", "Standard error of `tested_delta_pp`."),
)


def missing_table(transfer: Transfer) -> pl.DataFrame:
    """Return the rows without a delta: of every seed, imported ones, and one for each model without any score."""
    columns = ["model", "seed", "source_task", "source_language", "target_task", "target_language", "source", "reason"]
    of_seeds = transfer.by_seed.filter(pl.col("delta_pp").is_null()).select(columns)
    imported = transfer.rows.filter((pl.col("origin") == "imported") & pl.col("delta_pp").is_null())
    of_imports = imported.with_columns(seed=pl.lit(None, dtype=pl.Int64)).select(columns)
    absent = pl.DataFrame({"model": list(transfer.unscored_models)}, schema={"model": pl.String}).with_columns(
        reason=pl.lit(NO_MODEL)
    )
    return pl.concat([of_seeds, of_imports, absent], how="diagonal").sort(columns[:-1], nulls_last=True)


TRANSFER = Table(
    name="transfer",
    row="model, source, target",
    estimand=(
        "The change of one model's score on one target by training on one source, over items like the target's and "
        "over training seeds, for this model, this source and this way of training; graded transfer: the same of the "
        "right choice's probability, with the adapter as sure as the base."
    ),
    columns=(
        MODEL,
        *PAIR_COLUMNS,
        SOURCE_NAME,
        SOURCE_KIND,
        REGIME,
        Column("family", pl.String, "", "Family of the model."),
        Column("size", pl.String, "", "Size class of the model."),
        Column("construction", pl.String, "", "How the target's items came into their language."),
        Column("source_language_family", pl.String, "", "Family of the source's language."),
        Column("target_language_family", pl.String, "", "Family of the target's language."),
        _METRIC,
        Column("origin", pl.String, "", "`items` for scored rows, `imported` for a table from elsewhere."),
        Column("n_seeds", pl.Int64, "seeds", "Training seeds with a delta."),
        Column("n_seeds_missing", pl.Int64, "seeds", "Expected training seeds without a delta."),
        Column("n_items", pl.Int64, "items", "Items scored under base and adapter, the fewest over seeds."),
        Column("n_unscored", pl.Int64, "items", "Items that could not be scored, the most over seeds."),
        *_SCORES,
        Column("delta_pp", pl.Float64, "pp", "100 x (adapter score - base score), mean over seeds."),
        Column("delta_sd_seeds_pp", pl.Float64, "pp", "Standard deviation of the delta over seeds."),
        Column("se_pp", pl.Float64, "pp", "Standard error of `delta_pp`; `se_origin` says what it holds."),
        Column("se_origin", pl.String, "", "What the standard error holds: `items`, `unpaired` or `seeds`."),
        Column("df", pl.Float64, "", "Degrees of freedom of the standard error (Satterthwaite)."),
        Column("p_value", pl.Float64, "0..1", "Two-sided p of no change, by `p_method`."),
        Column("q_value", pl.Float64, "0..1", "`p_value` after Benjamini-Hochberg, the whole table being one family."),
        Column("p_method", pl.String, "", "Test behind `p_value`."),
        *with_ends(_GRADED),
        _GRADED_SE,
        Column("graded_p", pl.Float64, "0..1", "Two-sided p of no graded transfer, by `graded_p_method`."),
        Column(
            "graded_q", pl.Float64, "0..1", "`graded_p` after Benjamini-Hochberg, the whole table being one family."
        ),
        Column("graded_p_below_0", pl.Float64, "0..1", "Probability of a graded transfer below 0, with a flat prior."),
        Column("graded_p_method", pl.String, "", "Test behind `graded_p` and the interval."),
        *_GRADED_REST,
        _FLIPS,
        REASON,
        REMARK,
        *_DECISIONS,
    ),
    shown="model source target n_seeds base_score delta_pp se_pp q_value",
    build=lambda inputs: inputs.transfer.every_row,
)

TRANSFER_BY_SEED = Table(
    name="transfer_by_seed",
    row="model, seed, source, target",
    estimand=(
        "The change of one model's score on one target by one adapter, over items like the target's, for this very "
        "adapter; McNemar's p is about these items only."
    ),
    columns=(
        MODEL,
        SEED,
        *PAIR_COLUMNS,
        SOURCE_NAME,
        SOURCE_KIND,
        REGIME,
        _METRIC,
        Column("n_items", pl.Int64, "items", "Items scored under base and adapter."),
        Column("n_unscored", pl.Int64, "items", "Items that could not be scored."),
        *_SCORES,
        Column("delta_pp", pl.Float64, "pp", "100 x (adapter score - base score)."),
        Column("se_pp", pl.Float64, "pp", "Standard error of `delta_pp` over items, paired."),
        _GRADED,
        _GRADED_SE,
        *_GRADED_REST,
        Column("mcnemar_p", pl.Float64, "0..1", "Two-sided exact McNemar p of `n_only_base` against `n_only_adapter`."),
        Column(
            "mcnemar_q", pl.Float64, "0..1", "`mcnemar_p` after Benjamini-Hochberg, the whole table being one family."
        ),
        Column("n_both", pl.Int64, "items", "Items that base and adapter answer right."),
        Column("n_only_base", pl.Int64, "items", "Items that only the base answers right."),
        Column("n_only_adapter", pl.Int64, "items", "Items that only the adapter answers right."),
        Column("n_none", pl.Int64, "items", "Items that neither answers right."),
        Column("base_acc", pl.Float64, "0..1", "acc of the base."),
        Column("adapter_acc", pl.Float64, "0..1", "acc of the adapter."),
        Column("delta_acc_pp", pl.Float64, "pp", "100 x (adapter acc - base acc)."),
        Column("base_acc_norm", pl.Float64, "0..1", "acc_norm of the base."),
        Column("adapter_acc_norm", pl.Float64, "0..1", "acc_norm of the adapter."),
        Column("delta_acc_norm_pp", pl.Float64, "pp", "100 x (adapter acc_norm - base acc_norm)."),
        Column("n_ties", pl.Int64, "items", "Items whose best value two choices share under the adapter."),
        Column("n_ties_base", pl.Int64, "items", "Items whose best value two choices share under the base."),
        _FLIPS,
        Column("unscored_reason", pl.String, "", "Why items could not be scored."),
        REASON,
        REMARK,
        *_DECISIONS,
    ),
    shown="model seed source target n_items delta_pp se_pp mcnemar_p n_ties",
    build=lambda inputs: inputs.transfer.by_seed,
)

MISSING = Table(
    name="missing",
    row="model, seed, source, target without a delta; a configured model without any score",
    estimand="No number: what was expected and could not be compared.",
    columns=(MODEL, SEED, *PAIR_COLUMNS, SOURCE_NAME, REASON),
    shown="model seed source target reason",
    build=lambda inputs: missing_table(inputs.transfer),
)
