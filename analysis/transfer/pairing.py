"""Pairs every adapter's answers with the baseline's, item by item, one model at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import FloatArray, IntArray
from transfergrid.analysis.graded.choices import ItemChoices
from transfergrid.analysis.graded.items import grade
from transfergrid.analysis.records import TARGET, ItemBlock
from transfergrid.analysis.threads import side_by_side
from transfergrid.benchmarks.metrics import METRICS, lower_is_better
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import BASELINE_NAME, UserError

_KEY = ("seed", "source", *TARGET)
_RUN = (*_KEY, "primary_metric")
_ITEM_COLUMNS = (
    "model",
    *_KEY,
    "item_id",
    "gold",
    "pred",
    "pred_norm",
    "loglikelihoods_nats",
    "choice_chars",
    "primary_metric",
    "value",
    "unscored_reason",
)


@dataclass(frozen=True, slots=True)
class ModelObservations:
    """The paired observations of one model."""

    rows: pl.DataFrame
    """One row per (model, seed, source, target): counts over its items, see `_count`."""
    blocks: tuple[ItemBlock, ...]
    """One per target task."""
    graded: tuple[ItemBlock, ...]
    """What items add to graded transfer, in the same order; only of pairs that have it."""


def observe(scores: pl.LazyFrame, settings: AnalysisConfig | None = None) -> Iterator[ModelObservations]:
    """Yield the paired observations model by model, in the order of their names.

    Args:
        scores: Item rows in SCORE_SCHEMA, in any order.
        settings: Level of intervals and seed of the sign flips; None: the defaults.

    Raises:
        UserError: If an item stands there twice, or baseline and adapter disagree on an item's gold or a target's
            primary metric.
    """
    models = scores.select(pl.col("model").unique()).collect().to_series().sort().to_list()
    # two at a time: a model's item rows take about a gibibyte
    yield from side_by_side(partial(_observe_model, scores, settings or AnalysisConfig()), models, at_most=2)


def _observe_model(scores: pl.LazyFrame, settings: AnalysisConfig, model: str) -> ModelObservations:
    frame = scores.filter(pl.col("model") == model).select(_ITEM_COLUMNS).collect()
    _check_lengths(frame)
    starts = frame.select(pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift()) for key in _RUN)).to_series()
    runs, pairs = _runs(frame.select(_RUN).filter(starts))
    _check_metrics(model, runs)
    choices = ItemChoices(frame)
    answers = _answers(frame, runs[(starts.cum_sum() - 1).cast(pl.UInt32)], choices)
    del frame
    is_base = pl.col("pair").is_null()
    base = answers.filter(is_base).drop("pair").join(runs.select("target", *TARGET).unique(), on="target")
    _refuse_repeated_items(model, base, (*TARGET, "item_id"), "the baseline")
    base = base.sort(*TARGET, "item_id").with_row_index("base_row")
    base = base.with_columns(item=pl.col("item_id").rank("dense").over("target_task").cast(pl.Int64) - 1)
    paired = answers.filter(~is_base).join(
        base.drop(TARGET), on=["target", "item_id"], how="left", suffix="_base", validate="m:1", maintain_order="left"
    )
    paired = paired.with_columns(paired=pl.col("scored") & pl.col("scored_base").fill_null(False))
    _check_pairs(model, paired, pairs)
    graded = grade(paired, pairs, base, choices, settings)
    blocks = list(_item_blocks(model, paired.with_columns(graded=pl.Series(graded.values)), pairs, base))
    counts = _count(paired, pairs).join(graded.rows, on=_KEY, how="left", nulls_equal=True, validate="1:1")
    return ModelObservations(
        counts.with_columns(model=pl.lit(model)),
        tuple(block for block, _ in blocks),
        tuple(block for _, block in blocks if block.keys.height),
    )


def _runs(runs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Number targets and pairs; rows that follow each other with one key are a run, and there are few of them.

    Returns:
        The runs with ``target`` and ``pair`` (null: the baseline), and one row per pair, those of a target together.
    """
    order = (*TARGET, "seed", "source")
    adapters = runs.filter(pl.col("source") != BASELINE_NAME)
    pairs = adapters.group_by(order).agg(pl.col("primary_metric").min()).sort(order, nulls_last=True)
    pairs = pairs.with_row_index("pair")
    targets = runs.select(TARGET).unique().sort(TARGET).with_row_index("target")
    numbered = runs.join(targets, on=TARGET, maintain_order="left", validate="m:1").join(
        pairs.drop("primary_metric"), on=order, how="left", nulls_equal=True, maintain_order="left", validate="m:1"
    )
    return numbered, pairs


def _check_metrics(model: str, runs: pl.DataFrame) -> None:
    metrics = runs.group_by(TARGET).agg(pl.col("primary_metric").drop_nulls().unique().sort())
    for task, language, names in metrics.sort(TARGET).iter_rows():
        if len(names) > 1 or any(name not in METRICS for name in names):
            raise UserError(
                f"target '{task}-{language}' of model {model!r} has the primary metrics {names}; "
                f"expected the same one of {sorted(METRICS)} in all its rows; score it again"
            )


def _answers(frame: pl.DataFrame, keys: pl.DataFrame, choices: ItemChoices) -> pl.DataFrame:
    """Return what is compared of every row, with ``target``, ``pair`` and ``metric`` from its run.

    The store has lengths in characters only; `_count` leaves out the ties of metrics with other lengths.
    """
    norm = keys["primary_metric"].is_in([name for name, metric in METRICS.items() if metric.length is len])
    lower = keys["primary_metric"].is_in(lower_is_better())
    return frame.select(
        keys["target"],
        keys["pair"],
        "item_id",
        "gold",
        metric=keys["primary_metric"],
        scored=pl.col("value").is_not_null() & pl.col("unscored_reason").is_null(),
        n_choices=pl.col("loglikelihoods_nats").list.len(),
        right_acc=pl.col("pred") == pl.col("gold"),
        right_norm=pl.col("pred_norm") == pl.col("gold"),
        gain=pl.when(lower).then(-pl.col("value")).otherwise("value"),
        reason="unscored_reason",
        tie=pl.when(pl.col("loglikelihoods_nats").list.len() > 0).then(
            pl.Series(choices.ties(by_length=norm.fill_null(False).to_numpy()))
        ),
    ).with_row_index("row")


def _check_lengths(frame: pl.DataFrame) -> None:
    values, chars = (pl.col(name).list.len().fill_null(0) for name in ("loglikelihoods_nats", "choice_chars"))
    wrong = frame.filter((values > 0) & (values != chars)).head(1)
    if wrong.height:
        row = wrong.row(0, named=True)
        raise UserError(
            f"model {row['model']!r}: item {row['item_id']!r} of '{row['target_task']}-{row['target_language']}' has "
            f"{len(row['loglikelihoods_nats'])} log-likelihoods and {len(row['choice_chars'] or ())} choice lengths; "
            "expected as many of each"
        )


def _refuse_repeated_items(model: str, frame: pl.DataFrame, keys: tuple[str, ...], what: str) -> None:
    repeated = frame.select(keys).filter(pl.struct(keys).is_duplicated())
    if repeated.height:
        row = repeated.sort(keys, nulls_last=True).row(0, named=True)
        raise UserError(
            f"model {model!r}: {what} has item {row['item_id']!r} of "
            f"'{row['target_task']}-{row['target_language']}' more than once; remove the part that was written twice"
        )


def _check_pairs(model: str, paired: pl.DataFrame, pairs: pl.DataFrame) -> None:
    def first(wrong: pl.Expr) -> dict[str, Any] | None:
        found = paired.filter(wrong).join(pairs, on="pair").sort("source", *TARGET, "item_id")
        return found.row(0, named=True) if found.height else None

    def whose(row: dict[str, Any]) -> str:
        return f"model {model!r}: item {row['item_id']!r} of '{row['target_task']}-{row['target_language']}' has"

    if row := first(pl.col("gold") != pl.col("gold_base")):
        raise UserError(
            f"{whose(row)} gold {row['gold']} for an adapter and {row['gold_base']} for the baseline; score both on "
            "the same items"
        )
    if row := first(pl.col("paired") & (pl.col("n_choices") != pl.col("n_choices_base"))):
        raise UserError(
            f"{whose(row)} {row['n_choices']} choices for an adapter and {row['n_choices_base']} for the baseline; "
            "score both on the same items"
        )
    is_paired = paired["item"].is_not_null()
    pair, item = (paired[name].filter(is_paired).to_numpy().astype(np.intp) for name in ("pair", "item"))
    repeated = len(pair) and np.bincount(pair * (int(item.max()) + 1) + item).max() > 1
    suspected = paired if repeated else paired.filter(~is_paired)
    _refuse_repeated_items(model, suspected.join(pairs, on="pair"), (*_KEY, "item_id"), "an adapter")


def _count(paired: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return sums over the items that adapter and baseline were both scored on; a gain is a value, better if higher."""
    both = pl.col("paired")
    compared = [f"{name}{end}" for name in ("gain", "right_acc", "right_norm", "tie") for end in ("", "_base")]
    gain, base = pl.col("gain"), pl.col("gain_base")
    right, base_right = gain.abs() == 1, base.abs() == 1
    counts = (
        paired.with_columns(pl.when(both).then(name).alias(name) for name in compared)
        .group_by("pair")
        .agg(
            n_items=both.sum().cast(pl.Int64),
            n_unscored=(~both).sum().cast(pl.Int64),
            base_score=base.mean().abs(),
            adapter_score=gain.mean().abs(),
            change=(gain - base).sum(),
            squares=(gain - base).pow(2).sum(),
            n_both=(right & base_right).sum().cast(pl.Int64),
            n_only_base=(~right & base_right).sum().cast(pl.Int64),
            n_only_adapter=(right & ~base_right).sum().cast(pl.Int64),
            base_acc=pl.col("right_acc_base").mean(),
            adapter_acc=pl.col("right_acc").mean(),
            base_acc_norm=pl.col("right_norm_base").mean(),
            adapter_acc_norm=pl.col("right_norm").mean(),
            n_ties=_n_known("tie"),
            n_ties_base=_n_known("tie_base"),
            has_base=pl.col("base_row").is_not_null().any(),
            unscored_reason=pl.coalesce(pl.col("reason").min(), pl.col("reason_base").min()),
        )
    )
    counts = pairs.join(counts, on="pair", validate="1:1", maintain_order="left").drop("pair")
    graded = [name for name, metric in METRICS.items() if metric.is_graded]
    unknown_ties = [name for name, metric in METRICS.items() if metric.length not in (None, len)]
    return counts.with_columns(
        *_null_for(graded, "n_both", "n_only_base", "n_only_adapter"), *_null_for(unknown_ties, "n_ties", "n_ties_base")
    )


def _n_known(name: str) -> pl.Expr:
    """Return how many compared items a column is true of; null: it is not known of some."""
    is_known = ~(pl.col("paired") & pl.col(name).is_null()).any()
    return pl.when(is_known).then(pl.col(name).sum().cast(pl.Int64))


def _null_for(metrics: list[str], *columns: str) -> Iterator[pl.Expr]:
    """Yield columns without the numbers that do not exist for some metrics."""
    without = pl.col("primary_metric").is_in(metrics).fill_null(False)
    return (pl.when(without).then(None).otherwise(column).alias(column) for column in columns)


def _item_blocks(
    model: str, paired: pl.DataFrame, pairs: pl.DataFrame, base: pl.DataFrame
) -> Iterator[tuple[ItemBlock, ItemBlock]]:
    """Yield the differences of scores and what items add to graded transfer, one task at a time."""
    usable = paired.filter("paired")
    pair, item = (usable[name].to_numpy().astype(np.intp) for name in ("pair", "item"))
    values = (usable["gain"] - usable["gain_base"]).to_numpy(), usable["graded"].to_numpy()
    there = pairs.filter(pl.Series(np.bincount(pair, minlength=pairs.height) > 0))
    for task in there["target_task"].unique().sort():
        of_task = there.filter(target_task=task).with_columns(row=pl.struct("source", *TARGET).rank("dense") - 1)
        keys = of_task.select("row", pl.lit(model).alias("model"), "source", *TARGET).unique().sort("row").drop("row")
        item_ids = tuple(base.filter(target_task=task)["item_id"].unique().sort())
        rows = np.full(pairs.height, -1)
        rows[of_task["pair"].to_numpy()] = of_task["row"].to_numpy()
        chosen = np.flatnonzero(rows[pair] >= 0)
        flat = rows[pair[chosen]] * len(item_ids) + item[chosen]
        scores, graded = (_block(keys, item_ids, flat, each[chosen]) for each in values)
        kept = np.flatnonzero(graded.scored.any(axis=1))
        yield scores, ItemBlock(task, keys[kept], item_ids, graded.differences[kept], graded.scored[kept])


def _block(keys: pl.DataFrame, item_ids: tuple[str, ...], flat: IntArray, values: FloatArray) -> ItemBlock:
    """Return means over seeds, from values and their places in a flat block; NaN: left out."""
    shape = (keys.height, len(item_ids))
    known = ~np.isnan(values)
    total, n_seeds = (
        np.bincount(flat, each, minlength=shape[0] * shape[1]).reshape(shape)
        for each in (np.where(known, values, 0.0), known)
    )
    differences = (total / np.maximum(n_seeds, 1)).astype(np.float32)
    return ItemBlock(keys["target_task"][0], keys, item_ids, differences, n_seeds > 0)


def merge_blocks(blocks: list[ItemBlock]) -> tuple[ItemBlock, ...]:
    """Join the blocks of several models, one block per task over the union of their items."""
    tasks = sorted({block.task for block in blocks})
    return tuple(_merge_task(task, [block for block in blocks if block.task == task]) for task in tasks)


def _merge_task(task: str, blocks: list[ItemBlock]) -> ItemBlock:
    item_ids = sorted({item for block in blocks for item in block.item_ids})
    place = {item: index for index, item in enumerate(item_ids)}
    keys = pl.concat([block.keys for block in blocks])
    differences = np.zeros((keys.height, len(item_ids)), dtype=np.float32)
    scored = np.zeros(differences.shape, dtype=np.bool_)
    start = 0
    for block in blocks:
        columns = np.array([place[item] for item in block.item_ids], dtype=np.intp)
        rows = np.arange(start, start + block.keys.height)[:, None]
        differences[rows, columns] = block.differences
        scored[rows, columns] = block.scored
        start += block.keys.height
    return ItemBlock(task, keys, tuple(item_ids), differences, scored)
