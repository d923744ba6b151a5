"""Weighted sums of the deltas of several sources on one target, item by item: a mixture against its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import sparse, special

from transfergrid.analysis.arrays import FloatArray
from transfergrid.analysis.records import EVERY_KEY, ItemBlock

NO_MEMBER = "not every source of the comparison was scored here"
OTHER_SEEDS = "the sources of the comparison were not scored with the same seeds"
ALL_EQUAL = "no item tells them apart: no interval"


def compare(
    members: pl.DataFrame, groups: pl.DataFrame, blocks: Sequence[ItemBlock], by_seed: pl.DataFrame, confidence: float
) -> pl.DataFrame:
    """Return the mean difference of every group of contrasts with its interval.

    An item's difference is the weighted sum of the members' changes on it, averaged over seeds; items that a member
    was not scored on are left out. A contrast is the mean over its items, a group the mean over its contrasts. The
    targets of a task have the same items, so what an item does to all contrasts of a group is added before it is
    squared. With several seeds the variance of the seeds' means is added; what items and seeds do together is then
    counted in both, and intervals are rather too wide.

    Args:
        members: One row per member: ``contrast`` (a number), the columns of `EVERY_KEY`, ``weight``; a contrast has one
            model and one target.
        groups: ``group`` (numbers from 0) and ``contrast``.
        blocks: Item-wise differences of all kinds of sources.
        by_seed: Deltas by seed.
        confidence: Level of the intervals.

    Returns:
        One row per group, in order: ``n_pairs`` (contrasts that can be computed), ``n_items``, ``n_seeds``,
        ``difference_pp``, ``low_pp``, ``high_pp``, ``reason``.

    Source:
        Cluster-robust variance of a mean (Cameron and Miller 2015), items as clusters; Satterthwaite 1946.
    """
    parts = [part for block in blocks if len((part := _contrasts(members, block)).numbers)]
    of_seeds, reasons = _by_seed(members, by_seed, [number for part in parts for number in part.numbers])
    known = groups.join(reasons.filter(pl.col("reason").is_null()), on="contrast")
    known = known.with_columns(share=1 / pl.len().over("group"))
    n_pairs = known.group_by("group").agg(n_pairs=pl.len().cast(pl.Int64))
    frame = _over_items(parts, known, groups)
    for found in (n_pairs, _over_seeds(of_seeds, known), _first_reason(groups, reasons)):
        frame = frame.join(found, on="group", how="left", maintain_order="left", validate="1:1")
    return _with_interval(frame, confidence)


class _Contrasts(NamedTuple):
    """The K contrasts on the targets of one task of I items."""

    numbers: list[int]
    means: FloatArray
    """Shape [K], pp; 0 without an item that all members were scored on."""
    influence: FloatArray
    """Shape [K, I]: squares of a row add up to the variance of its mean, pp^2."""
    there: FloatArray
    """Shape [K, I]: 1 where all members were scored."""

    def pick(self, known: pl.DataFrame, n_groups: int) -> sparse.csr_array:
        """Return the share of every contrast in every group, shape [groups, K]."""
        places = pl.DataFrame({"contrast": self.numbers, "place": range(len(self.numbers))})
        here = known.join(places, on="contrast")
        cells = (here["group"].to_numpy(), here["place"].to_numpy())
        return sparse.csr_array((here["share"].to_numpy(), cells), shape=(n_groups, len(self.numbers)))


def _contrasts(members: pl.DataFrame, block: ItemBlock) -> _Contrasts:
    keys = block.keys.select(EVERY_KEY).with_row_index("row")
    sizes = members.group_by("contrast").agg(size=pl.len())
    found = members.join(keys, on=list(EVERY_KEY)).join(sizes, on="contrast")
    found = found.filter(pl.len().over("contrast") == pl.col("size")).sort("contrast")
    numbers, places = np.unique(found["contrast"].to_numpy(), return_inverse=True)
    shape = (len(numbers), block.keys.height)
    cells = (places, found["row"].to_numpy())
    weights = sparse.csr_array((found["weight"].to_numpy(), cells), shape=shape)
    involved = sparse.csr_array((np.ones(found.height), cells), shape=shape)
    there = ((involved @ (~block.scored).astype(np.float64)) == 0).astype(np.float64)
    values = 100 * (weights @ block.differences.astype(np.float64)) * there
    n = there.sum(axis=1, keepdims=True)
    means = values.sum(axis=1, keepdims=True) / np.maximum(n, 1)
    influence = (values - means * there) / np.sqrt(np.maximum(n * (n - 1), 1))
    return _Contrasts(numbers.tolist(), means[:, 0], influence, there)


def _over_items(parts: Sequence[_Contrasts], known: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Return per group the mean difference, its variance over items, and their number."""
    n_groups = groups["group"].n_unique()
    difference, variance, n_items = np.zeros(n_groups), np.zeros(n_groups), np.zeros(n_groups)
    for part in parts:
        pick = part.pick(known, n_groups)
        difference += pick @ part.means
        variance += ((pick @ part.influence) ** 2).sum(axis=1)
        n_items += ((pick @ part.there) > 0).sum(axis=1)
    found = {"difference_pp": difference, "items": variance, "n_items": n_items.astype(np.int64)}
    return pl.DataFrame({"group": np.arange(n_groups), **found}).cast({"group": groups.schema["group"]})


def _over_seeds(of_seeds: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return per group the number of seeds and the variance of their mean; 0 with one seed."""
    means = of_seeds.join(known, on="contrast").group_by("group", "seed").agg(pl.col("difference_pp").mean())
    variance = (pl.col("difference_pp").var() / pl.len()).fill_null(0.0)
    return means.group_by("group").agg(n_seeds=pl.len().cast(pl.Int64), seeds=variance)


def _by_seed(members: pl.DataFrame, by_seed: pl.DataFrame, scored: list[int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the difference of every contrast by seed, and why a contrast cannot be computed (null: it can)."""
    deltas = by_seed.filter(pl.col("delta_pp").is_not_null()).select("seed", *EVERY_KEY, "delta_pp")
    found = members.join(deltas, on=list(EVERY_KEY), how="left")
    sizes = found.group_by("contrast").agg(size=pl.col("source").n_unique(), n_seeds=pl.col("seed").n_unique())
    weighted = pl.col("weight") * pl.col("delta_pp")
    seeds = found.drop_nulls("seed").group_by("contrast", "seed").agg(difference_pp=weighted.sum(), n=pl.len())
    whole = seeds.join(sizes, on="contrast").filter(pl.col("n") == pl.col("size"))
    reasons = sizes.join(whole.group_by("contrast").agg(n_whole=pl.len()), on="contrast", how="left").select(
        "contrast",
        reason=pl.when(~pl.col("contrast").is_in(scored))
        .then(pl.lit(NO_MEMBER))
        .when(pl.col("n_whole").fill_null(0) < pl.col("n_seeds"))
        .then(pl.lit(OTHER_SEEDS)),
    )
    return whole, reasons


def _first_reason(groups: pl.DataFrame, reasons: pl.DataFrame) -> pl.DataFrame:
    """Return why a group has no contrast that can be computed."""
    found = groups.join(reasons, on="contrast", how="left").group_by("group")
    return found.agg(reason=pl.when(pl.col("reason").is_not_null().all()).then(pl.col("reason").sort().first()))


def _with_interval(frame: pl.DataFrame, confidence: float) -> pl.DataFrame:
    there = pl.col("n_pairs").is_not_null()
    items, seeds = frame["items"].to_numpy(), frame["seeds"].fill_null(0.0).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = items**2 / (frame["n_items"].to_numpy() - 1) + seeds**2 / (frame["n_seeds"].fill_null(0).to_numpy() - 1)
        lost = np.where(seeds > 0, lost, items**2 / (frame["n_items"].to_numpy() - 1))
        half = special.stdtrit((items + seeds) ** 2 / lost, (1 + confidence) / 2) * np.sqrt(items + seeds)
    has_interval = there & pl.Series(np.isfinite(half) & (items > 0))
    difference = pl.col("difference_pp")
    return frame.with_columns(half=pl.Series(half)).select(
        pl.col("n_pairs").fill_null(0),
        pl.when(there).then("n_items").alias("n_items"),
        "n_seeds",
        pl.when(there).then(difference).alias("difference_pp"),
        low_pp=pl.when(has_interval).then(difference - pl.col("half")),
        high_pp=pl.when(has_interval).then(difference + pl.col("half")),
        reason=pl.when(there & ~has_interval).then(pl.lit(ALL_EQUAL)).otherwise("reason"),
    )
