"""What an adaptive evaluation of a made-up run decides, what it saves, and how far its means are off.

Three means are compared with the truth: over the items as they were scored (biased: pairs are chosen by their items),
over the items that all pairs have, and over pairs that went on together with one in ten stopped ones, which are carried
on to the last item and count for the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from transfergrid.analysis.statistics.significance import benjamini_hochberg, holds_fdr, mcnemar_exact_p
from transfergrid.perf.coverage.measures import Found, said_false
from transfergrid.perf.coverage.world import World, draw_answers
from transfergrid.store.adaptive import FIRST_LOOK, FUTILE_Z, LOOK_EVERY, hoped_z

FloatArray = npt.NDArray[np.float64]
CARRIED_ON = 0.1
"""Share of the stopped pairs that the weighted mean would need to the last item."""
FDR = 0.05


def stopped_at(changes: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Return how many items pairs get, shape [N], from what every item changes, shape [N, I]: -1, 0 or 1."""
    n = changes.shape[1]
    items = np.full(len(changes), n)
    for m in range(n - (n - FIRST_LOOK) % LOOK_EVERY, FIRST_LOOK - 1, -LOOK_EVERY):
        if m < n:
            net, changed = changes[:, :m].sum(axis=1, dtype=float), np.abs(changes[:, :m]).sum(axis=1, dtype=float)
            items[hoped_z(net, changed, m, n) < FUTILE_Z] = m
    return items


def stopping(world: World, generator: np.random.Generator, *, fixed_items: int | None = None) -> Iterator[Found]:
    """Yield what an adaptive evaluation of one made-up run says.

    Args:
        world: One model and one seed.
        generator: Of all random numbers.
        fixed_items: Items of the fixed evaluation that it is compared with; None: as many as it may have itself.
    """
    truth, ((answers,),) = draw_answers(world, generator)
    changes = (answers.adapters.astype(np.int8) - answers.base).reshape(-1, world.n_items)
    true = truth.pairs.ravel()
    items = stopped_at(changes)
    went_on = items == world.n_items
    rejected = _rejected(changes, went_on)
    first = changes[:, : fixed_items or world.n_items]
    fixed = _rejected(first, np.ones(len(true), dtype=bool))
    yield said_false("items a pair", items.mean())
    yield said_false("share of the items", items.mean() / world.n_items)
    yield said_false("decisions of the fixed design, per 100 pairs", 100 * fixed.mean())
    yield said_false("decisions, per 100 pairs", 100 * rejected.mean())
    if fixed.any():
        yield said_false("decisions kept", (rejected & fixed).sum() / fixed.sum())
    if rejected.any():
        signs = np.sign(changes.sum(axis=1))
        yield said_false("wrong sign or no effect, of the decisions", (signs != np.sign(true))[rejected].mean())
    yield from _means(changes, items, true, generator)


def _rejected(changes: npt.NDArray[np.int8], tested: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    p_values = mcnemar_exact_p((changes < 0).sum(axis=1), (changes > 0).sum(axis=1))
    return holds_fdr(benjamini_hochberg(np.where(tested, p_values, 1.0)), FDR)


def _means(
    changes: npt.NDArray[np.int8], items: npt.NDArray[np.int64], true: FloatArray, generator: np.random.Generator
) -> Iterator[Found]:
    """Yield bias and error of the mean over all other pairs, and of the mean of every source."""
    n, size = changes.shape[1], round(len(true) ** 0.5)
    totals = np.cumsum(changes, axis=1, dtype=np.int32)
    seen = 100 * totals[np.arange(len(true)), items - 1] / items
    whole, common = 100 * totals[:, -1] / n, 100 * totals[:, FIRST_LOOK - 1] / FIRST_LOOK
    went_on = items == n
    weights = np.where(went_on, 1.0, (generator.random(len(true)) < CARRIED_ON) / CARRIED_ON)
    others = ~np.eye(size, dtype=bool).ravel()
    one = np.ones(len(true))
    for name, values, weight in (
        ("all items", whole, one),
        ("items as scored", seen, one),
        ("common items", common, one),
        ("weighted", whole, weights),
    ):
        kept = weight * others
        yield said_false(f"bias of the mean, {name}", np.average(values, weights=kept) - true[others].mean())
        yield said_false(f"error of the mean, {name}", abs(np.average(values, weights=kept) - true[others].mean()))
        rows, truth = kept.reshape(size, size), (true * others).reshape(size, size).sum(axis=1) / (size - 1)
        there = rows.sum(axis=1) > 0
        scores = (values * kept).reshape(size, size).sum(axis=1)[there] / rows.sum(axis=1)[there]
        yield said_false(f"error of a source's mean, {name}", np.abs(scores - truth[there]).mean())
        yield said_false(f"sources without a mean, {name}", 1 - there.mean())
