"""Pairs every adapter's answers with the baseline's, item by item, one model at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from transfergrid.analysis.graded.items import grade
from transfergrid.analysis.records import TARGET, ItemBlock
from transfergrid.benchmarks.metrics import METRICS, lower_is_better
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import BASELINE_NAME, UserError

_KEY = ("seed", "source", *TARGET)
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
    for model in models:
        frame = scores.filter(pl.col("model") == model).select(_ITEM_COLUMNS).collect()
        yield _observe_model(model, frame, settings or AnalysisConfig())


def _observe_model(model: str, frame: pl.DataFrame, settings: AnalysisConfig) -> ModelObservations:
    _check_metrics(model, frame)
    answers = _answers(frame).with_row_index("row")
    is_base = pl.col("source") == BASELINE_NAME
    base = answers.filter(is_base).drop("seed", "source")
    _refuse_repeated_items(model, base, (*TARGET, "item_id"), "the baseline")
    base = base.sort(*TARGET, "item_id").with_row_index("base_row")
    base = base.with_columns(item=pl.col("item_id").rank("dense").over("target_task").cast(pl.Int64) - 1)
    adapters = answers.filter(~is_base)
    paired = adapters.join(base, on=[*TARGET, "item_id"], how="left", suffix="_base", validate="m:1")
    paired = paired.with_columns(paired=pl.col("scored") & pl.col("scored_base").fill_null(False))
    _check_pairs(model, paired)
    graded = grade(paired, base, frame, settings)
    with_values = paired.with_columns(graded=pl.Series(graded.values))
    blocks = [_item_blocks(model, *part, base) for part in _by_task(with_values)]
    counts = _count(paired).join(graded.rows, on=_KEY, how="left", nulls_equal=True, validate="1:1")
    return ModelObservations(
        counts.with_columns(model=pl.lit(model)),
        tuple(block for block, _ in blocks),
        tuple(block for _, block in blocks if block.keys.height),
    )


def _check_metrics(model: str, frame: pl.DataFrame) -> None:
    found = frame.select(*TARGET, "primary_metric").unique().filter(pl.col("primary_metric").is_not_null())
    metrics = found.group_by(TARGET).agg(pl.col("primary_metric").sort())
    for task, language, names in metrics.sort(TARGET).iter_rows():
        if len(names) > 1 or any(name not in METRICS for name in names):
            raise UserError(
                f"target '{task}-{language}' of model {model!r} has the primary metrics {names}; "
                f"expected the same one of {sorted(METRICS)} in all its rows; score it again"
            )


def _answers(frame: pl.DataFrame) -> pl.DataFrame:
    scored = pl.col("value").is_not_null() & pl.col("unscored_reason").is_null()
    lower = pl.col("primary_metric").is_in(lower_is_better())
    answers = frame.select(
        *_KEY,
        "item_id",
        "gold",
        metric="primary_metric",
        scored=scored,
        n_choices=pl.col("loglikelihoods_nats").list.len(),
        right_acc=pl.col("pred") == pl.col("gold"),
        right_norm=pl.col("pred_norm") == pl.col("gold"),
        gain=pl.when(lower).then(-pl.col("value")).otherwise("value"),
        reason="unscored_reason",
    )
    return answers.with_columns(tie=pl.Series(_ties(frame)))


def _ties(frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Return shape [rows]: whether two choices share the best value of the row's primary metric.

    The store has lengths in characters only; `_count` leaves out the ties of metrics with other lengths.
    """
    lengths = frame["loglikelihoods_nats"].list.len().fill_null(0).cast(pl.Int64).to_numpy()
    _check_lengths(frame, lengths)
    ties = np.zeros(frame.height, dtype=np.bool_)
    filled = np.flatnonzero(lengths > 0)
    if not len(filled):
        return ties
    part = frame if len(filled) == frame.height else frame[filled]
    values = part["loglikelihoods_nats"].explode().to_numpy()
    norm = part["primary_metric"].is_in([name for name, metric in METRICS.items() if metric.length is len]).to_numpy()
    repeats = lengths[filled]
    if norm.any():
        chars = part["choice_chars"].explode().cast(pl.Float64).to_numpy()
        values = np.where(np.repeat(norm, repeats), values / chars, values)
    if (repeats == repeats[0]).all():  # sums over the first axis are several times faster
        by_choice = np.ascontiguousarray(values.reshape(-1, repeats[0]).T)
        ties[filled] = (by_choice == by_choice.max(axis=0)).sum(axis=0) > 1
        return ties
    starts = np.concatenate([[0], np.cumsum(repeats)[:-1]])
    best = np.maximum.reduceat(values, starts)
    ties[filled] = np.add.reduceat((values == np.repeat(best, repeats)).astype(np.int32), starts) > 1
    return ties


def _check_lengths(frame: pl.DataFrame, lengths: npt.NDArray[np.int64]) -> None:
    chars = frame["choice_chars"].list.len().fill_null(0).cast(pl.Int64).to_numpy()
    wrong = np.flatnonzero((lengths > 0) & (lengths != chars))
    if len(wrong):
        row = frame.row(int(wrong[0]), named=True)
        raise UserError(
            f"model {row['model']!r}: item {row['item_id']!r} of '{row['target_task']}-{row['target_language']}' has "
            f"{lengths[wrong[0]]} log-likelihoods and {chars[wrong[0]]} choice lengths; expected as many of each"
        )


def _refuse_repeated_items(model: str, frame: pl.DataFrame, keys: tuple[str, ...], what: str) -> None:
    repeated = frame.select(keys).filter(pl.struct(keys).is_duplicated())
    if repeated.height:
        row = repeated.sort(keys, nulls_last=True).row(0, named=True)
        raise UserError(
            f"model {model!r}: {what} has item {row['item_id']!r} of "
            f"'{row['target_task']}-{row['target_language']}' more than once; remove the part that was written twice"
        )


def _check_pairs(model: str, paired: pl.DataFrame) -> None:
    changed = paired.filter(pl.col("gold") != pl.col("gold_base"))
    if changed.height:
        row = changed.sort("source", *TARGET, "item_id").row(0, named=True)
        raise UserError(
            f"model {model!r}: item {row['item_id']!r} of '{row['target_task']}-{row['target_language']}' has gold "
            f"{row['gold']} for an adapter and {row['gold_base']} for the baseline; score both on the same items"
        )
    other = paired.filter("paired", pl.col("n_choices") != pl.col("n_choices_base"))
    if other.height:
        row = other.sort("source", *TARGET, "item_id").row(0, named=True)
        raise UserError(
            f"model {model!r}: item {row['item_id']!r} of '{row['target_task']}-{row['target_language']}' has "
            f"{row['n_choices']} choices for an adapter and {row['n_choices_base']} for the baseline; score both "
            "on the same items"
        )
    unpaired = paired.filter(pl.col("base_row").is_null())
    _refuse_repeated_items(model, unpaired, (*_KEY, "item_id"), "an adapter")
    codes = paired.filter(pl.col("base_row").is_not_null()).select(
        "base_row", group=pl.struct("seed", "source").rank("dense").cast(pl.UInt64)
    )
    n_base = int(codes["base_row"].max() or 0) + 1  # type: ignore[arg-type]
    flat = (codes["group"].to_numpy() * np.uint64(n_base)) + codes["base_row"].to_numpy()
    if len(np.unique(flat)) < len(flat):
        _refuse_repeated_items(model, paired, (*_KEY, "item_id"), "an adapter")


def _count(paired: pl.DataFrame) -> pl.DataFrame:
    """Return sums over the items that adapter and baseline were both scored on; a gain is a value, better if higher."""
    both = pl.col("paired")
    gain, base = pl.col("gain"), pl.col("gain_base")
    right, base_right = gain.abs() == 1, base.abs() == 1
    counts = paired.group_by(_KEY).agg(
        primary_metric=pl.col("metric").drop_nulls().first(),
        n_items=both.sum().cast(pl.Int64),
        n_unscored=(~both).sum().cast(pl.Int64),
        base_score=base.filter(both).mean().abs(),
        adapter_score=gain.filter(both).mean().abs(),
        change=(gain - base).filter(both).sum(),
        squares=(gain - base).filter(both).pow(2).sum(),
        n_both=(both & right & base_right).sum().cast(pl.Int64),
        n_only_base=(both & ~right & base_right).sum().cast(pl.Int64),
        n_only_adapter=(both & right & ~base_right).sum().cast(pl.Int64),
        base_acc=pl.col("right_acc_base").filter(both).mean(),
        adapter_acc=pl.col("right_acc").filter(both).mean(),
        base_acc_norm=pl.col("right_norm_base").filter(both).mean(),
        adapter_acc_norm=pl.col("right_norm").filter(both).mean(),
        n_ties=(both & pl.col("tie")).sum().cast(pl.Int64),
        n_ties_base=(both & pl.col("tie_base")).sum().cast(pl.Int64),
        has_base=pl.col("base_row").is_not_null().any(),
        unscored_reason=pl.coalesce(
            pl.col("reason").drop_nulls().sort().first(), pl.col("reason_base").drop_nulls().sort().first()
        ),
    )
    graded = [name for name, metric in METRICS.items() if metric.is_graded]
    unknown_ties = [name for name, metric in METRICS.items() if metric.length not in (None, len)]
    return counts.with_columns(
        *_null_for(graded, "n_both", "n_only_base", "n_only_adapter"), *_null_for(unknown_ties, "n_ties", "n_ties_base")
    )


def _null_for(metrics: list[str], *columns: str) -> Iterator[pl.Expr]:
    """Yield columns without the numbers that do not exist for some metrics."""
    without = pl.col("primary_metric").is_in(metrics).fill_null(False)
    return (pl.when(without).then(None).otherwise(column).alias(column) for column in columns)


def _by_task(paired: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    usable = paired.filter("paired").select("source", *TARGET, "item", "gain", "gain_base", "graded")
    parts = usable.partition_by("target_task", as_dict=True)
    for key in sorted(parts):
        yield str(key[0]), parts[key]


def _item_blocks(model: str, task: str, part: pl.DataFrame, base: pl.DataFrame) -> tuple[ItemBlock, ItemBlock]:
    """Return the differences of scores and what items add to graded transfer."""
    key = ("source", *TARGET)
    pairs = part.select(key).unique().sort(key).with_row_index("pair")
    item_ids = base.filter(pl.col("target_task") == task)["item_id"].unique().sort().to_list()
    codes = part.join(pairs, on=key, validate="m:1")
    shape = (pairs.height, len(item_ids))
    flat = codes["pair"].to_numpy().astype(np.int64) * shape[1] + codes["item"].to_numpy()
    keys = pairs.select(pl.lit(model).alias("model"), *key)

    def block(values: npt.NDArray[np.float64]) -> ItemBlock:
        known = ~np.isnan(values)
        total = np.bincount(flat, np.where(known, values, 0.0), minlength=shape[0] * shape[1]).reshape(shape)
        n_seeds = np.bincount(flat, known, minlength=shape[0] * shape[1]).reshape(shape)
        differences = (total / np.maximum(n_seeds, 1)).astype(np.float32)
        return ItemBlock(task, keys, tuple(item_ids), differences, n_seeds > 0)

    graded = block(codes["graded"].to_numpy())
    there = np.flatnonzero(graded.scored.any(axis=1))
    return (
        block(codes["gain"].to_numpy() - codes["gain_base"].to_numpy()),
        ItemBlock(task, keys[there], graded.item_ids, graded.differences[there], graded.scored[there]),
    )


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
