"""What the tables of one made-up run say, compared with the truth it was drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special, stats

from transfergrid.analysis.mixing.contrasts import compare
from transfergrid.analysis.records import ALL_TRANSFER, EVERY_KEY, EVERY_REGIME, PAIR, TARGET, ItemBlock, in_regime
from transfergrid.analysis.statistics.bootstrap import resample_deltas
from transfergrid.analysis.statistics.group_draws import Group
from transfergrid.analysis.statistics.group_intervals import estimate, intervals
from transfergrid.analysis.statistics.multiway import item_influences
from transfergrid.analysis.statistics.true_rates import draw_true_deltas, true_rates
from transfergrid.analysis.tables.ranking import Kind
from transfergrid.analysis.tables.recommendation import estimate_pairs, noisy_pairs
from transfergrid.analysis.tables.regimes import harm_by_chance_of_rows
from transfergrid.analysis.tables.roles import rank_all_models, unit_expr
from transfergrid.analysis.tables.variance import CROSSED, variance_rows
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime
from transfergrid.perf.coverage.world import MODELS, Drawn, Truth, World

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


class Found(NamedTuple):
    """One statement of one run: an interval and its truth, or whether something false was said."""

    what: str
    low: FloatArray
    high: FloatArray
    truth: FloatArray
    """Shape [n]; NaN: what the estimate is on average over many runs."""
    estimate: FloatArray


def said_false(what: str, value: float) -> Found:
    """Return a share or a figure without an interval."""
    one = np.array([value], dtype=float)
    return Found(what, np.full(1, np.nan), np.full(1, np.nan), np.full(1, np.nan), one)


def measure(world: World, drawn: Drawn, settings: AnalysisConfig) -> Iterator[Found]:
    """Yield every statement of the tables that has a truth."""
    rows, items = drawn.transfer.rows.with_row_index("row"), drawn.transfer.items
    draws, drawn_truth = (each(drawn.transfer.rows, items, settings) for each in (resample_deltas, draw_true_deltas))
    truth = drawn.truth.pairs.ravel()
    yield from _pairs(rows, truth, settings)
    groups = {
        regime: rows.filter(in_regime(regime))["row"].to_numpy().astype(np.intp)
        for regime in EVERY_REGIME
        if regime != Regime.MT_ML.value
    }
    inputs = _Inputs(rows, items, draws, drawn_truth, truth)
    yield from _regimes(world, inputs, groups, settings)
    yield from _roles(world, inputs, drawn.truth, settings)
    yield from _variance(world, inputs, settings)
    yield from _contrasts(world, drawn, settings)
    yield from recommendations(world, drawn, settings)


class _Inputs(NamedTuple):
    rows: pl.DataFrame
    items: Sequence[ItemBlock]
    draws: npt.NDArray[np.float32]
    drawn_truth: npt.NDArray[np.float32]
    truth: FloatArray
    """Shape [rows]."""


def _pairs(rows: pl.DataFrame, truth: FloatArray, settings: AnalysisConfig) -> Iterator[Found]:
    """Intervals of single deltas from their standard errors, and false discoveries."""
    delta, se = rows["delta_pp"].to_numpy(), rows["se_pp"].fill_null(np.nan).to_numpy()
    t = special.stdtrit(rows["df"].fill_null(np.nan).to_numpy(), 1 - (1 - settings.confidence) / 2)
    yield Found("delta -/+ t se", delta - t * se, delta + t * se, truth, delta)
    found = rows["q_value"].fill_null(2.0).to_numpy() <= settings.fdr
    yield said_false("some q <= .05", found.any())
    if found.any():
        yield said_false("wrong sign or no effect, of q <= .05", (np.sign(delta) != np.sign(truth))[found].mean())


def _regimes(
    world: World, inputs: _Inputs, by_regime: dict[str, IntArray], settings: AnalysisConfig
) -> Iterator[Found]:
    groups = [Group(regime, "all", "all", index) for regime, index in by_regime.items()]
    cut = settings.harm_threshold_pp
    estimates = estimate(inputs.rows["delta_pp"].to_numpy(), groups, cut)
    ends = intervals(inputs.rows, inputs.draws, groups, settings, items=inputs.items)
    for name in ("mean_pp", "median_pp", "win_rate", "harm_rate"):
        interval, values = ends.ends[name], estimates[name]
        # a nominal rate is of deltas with their noise: its truth is what many runs say on average
        truth = world.mean_pp if name.endswith("_pp") else np.nan
        for place, group in enumerate(groups):
            yield _one(f"{name}, {group.regime}", interval.low[place], interval.high[place], truth, values[place])
    yield from _true_rates("", [group.regime for group in groups], list(by_regime.values()), inputs, settings)
    if world.is_null:
        by_chance = harm_by_chance_of_rows(inputs.rows, cut)
        for place, group in enumerate(groups):
            said = by_chance[group.index].mean() - estimates["harm_rate"][place]
            yield said_false(f"harm by chance - observed, {group.regime}", said)


def _true_rates(
    what: str, names: Sequence[str], groups: Sequence[IntArray], inputs: _Inputs, settings: AnalysisConfig
) -> Iterator[Found]:
    cut = settings.harm_threshold_pp
    rates = true_rates(inputs.drawn_truth, groups, harm_pp=cut, confidence=settings.confidence)
    for rate, event in (("win_rate_true", inputs.truth > 0), ("harm_rate_true", inputs.truth <= cut)):
        for place, name in enumerate(names):
            found = (
                rates[rate].low[place],
                rates[rate].high[place],
                event[groups[place]].mean(),
                rates[rate].rate[place],
            )
            yield _one(f"{rate}{what}, {name}", *found)


def _one(what: str, *values: float) -> Found:
    return Found(what, *(np.array([value], dtype=float) for value in values))


def _roles(world: World, inputs: _Inputs, drawn: Truth, settings: AnalysisConfig) -> Iterator[Found]:
    names = [cell.name for cell in world.cells]
    transfer = inputs.rows.filter(in_regime(ALL_TRANSFER))
    for role, values in {"donor": drawn.sources, "recipient": drawn.targets}.items():
        part = transfer.with_columns(name=unit_expr(role, "cell"))
        table = rank_all_models(part, Kind(role, "cell", ALL_TRANSFER), inputs.draws, settings).sort("name")
        members = part.group_by("name").agg("row").sort("name")["row"].to_list()
        groups = [np.array(index, dtype=np.intp) for index in members]
        yield from _true_rates(f" of a {role}", ["cell"] * len(groups), groups, inputs, settings)
        if world.is_null:  # all units are alike, so that their nominal rate is one number
            low, high, rate = (table[f"harm_rate{end}"].fill_null(np.nan).to_numpy() for end in ("_low", "_high", ""))
            yield Found(f"harm_rate of a {role}", low, high, np.full(len(low), np.nan), rate)
        if world.model_target_sd and role == "recipient":
            continue  # the models' mean: not one number
        truth = dict(zip(names, values, strict=True))
        true = np.array([truth[name] for name in table["name"]])
        scores = [table[f"score_pp{end}"].fill_null(np.nan).to_numpy() for end in ("_low", "_high", "")]
        yield Found(f"score of a {role}", scores[0], scores[1], true, scores[2])
        yield from _ranks(role, table, true)
        label = table["label"].is_not_null().to_numpy()
        wrong = true <= true.mean() if role == "donor" else true >= true.mean()
        yield said_false(f"some false label of a {role}", (label & wrong).any())
        yield said_false(f"labels of {role}s", label.sum())


def _ranks(role: str, part: pl.DataFrame, truth: FloatArray) -> Iterator[Found]:
    low, high = (part[name].fill_null(0).to_numpy() for name in ("rank_low", "rank_high"))
    best, worst = stats.rankdata(-truth, method="min"), stats.rankdata(-truth, method="max")
    held = (low <= worst) & (best <= high)
    yield said_false(f"rank of a {role} held", held.mean())
    yield said_false(f"rank of the best and worst {role} held", held[[truth.argmax(), truth.argmin()]].mean())
    yield said_false(f"all ranks of {role}s held", held.all())


def _variance(world: World, inputs: _Inputs, settings: AnalysisConfig) -> Iterator[Found]:
    parts = {
        "source": world.source_sd**2,
        "target": world.target_sd**2,
        "residual": world.pair_sd**2
        + world.model_target_sd**2
        + world.task_pair_sd**2
        # the luck of training is the pair's, as far as the mean over seeds leaves it
        + world.seed_sd**2 / world.n_seeds,
    }
    total = sum(parts.values())
    part = inputs.rows.filter(in_regime(ALL_TRANSFER))
    influences = [(each.rows, each.values) for each in item_influences(part, inputs.items)]
    table = variance_rows(CROSSED, ALL_TRANSFER, part, settings, influences)
    for row in table.filter(pl.col("component").is_in(list(parts))).iter_rows(named=True):
        value = parts[row["component"]]
        truths = {"share": np.nan, "variance_pp2": np.nan, "variance_true_pp2": value}
        truths |= {"share_true": value / total} if total and row["share_true"] is not None else {}
        for name, truth in truths.items():
            ends = (np.nan if row[each] is None else row[each] for each in (f"{name}_low", f"{name}_high"))
            yield _one(f"{name} of {row['component']}", *ends, truth, row[name])


def _contrasts(world: World, drawn: Drawn, settings: AnalysisConfig) -> Iterator[Found]:
    """Yield one source against two others, as a mixture against its parts, on every target, and the mean of these."""
    cells, weights = world.cells, (1.0, -0.5, -0.5)
    members = [
        (number, MODELS[0], source.name, target.task, target.language, weight)
        for number, target in enumerate(cells)
        for source, weight in zip(cells, weights, strict=False)
    ]
    frame = pl.DataFrame(members, schema=["contrast", *EVERY_KEY, "weight"], orient="row")
    every = list(range(len(cells)))
    groups = pl.DataFrame({"group": [*every, *[len(cells)] * len(cells)], "contrast": [*every, *every]})
    found = compare(frame, groups, drawn.transfer.items, drawn.transfer.by_seed, settings.confidence)
    low, high, said = (found[name].fill_null(np.nan).to_numpy() for name in ("low_pp", "high_pp", "difference_pp"))
    true = np.array(weights) @ drawn.truth.pairs[0, : len(weights)]
    yield Found("minus_..._pp of a mixture", low[:-1], high[:-1], true, said[:-1])
    yield _one("minus_..._pp, mean over targets", low[-1], high[-1], true.mean(), said[-1])


def recommendations(world: World, drawn: Drawn, settings: AnalysisConfig) -> Iterator[Found]:
    """Yield what `grid recommend` says of every pair, of the first of every target, and how far it is off."""
    place = {(cell.task, cell.language): index for index, cell in enumerate(world.cells)}
    truth = drawn.truth.pairs.mean(axis=0)
    rows = drawn.transfer.rows.filter(in_regime(ALL_TRANSFER))
    table = estimate_pairs(noisy_pairs(rows, drawn.transfer.items), settings)
    true = [truth[place[pair[:2]], place[pair[2:]]] for pair in table.select(PAIR).iter_rows()]
    width = 2 * special.ndtri(1 - (1 - settings.confidence) / 2)
    table = table.with_columns(truth=pl.Series(true), se=(pl.col("high_pp") - pl.col("low_pp")) / width)
    columns = ("low_pp", "high_pp", "truth", "estimate_pp")
    yield Found("recommend", *(table[name].to_numpy() for name in columns))
    first = table.sort("estimate_pp", descending=True).unique(TARGET, keep="first", maintain_order=True)
    yield Found("recommend, first of a target", *(first[name].to_numpy() for name in columns))
    error = pl.col("estimate_pp") - pl.col("truth")
    sure = pl.col("p_help") > settings.confidence
    yield said_false("bias of the first in standard errors", first.select((error / pl.col("se")).mean()).item())
    yield said_false("bias of the first in pp", first.select(error.mean()).item())
    yield said_false("P(help) above .95", table.select(sure.mean()).item())
    if table.select(sure.any()).item():
        yield said_false(
            "of those, effects that do not help", table.filter(sure).select((pl.col("truth") <= 0).mean()).item()
        )
    yield said_false("rmse", table.select((error**2).mean().sqrt()).item())
    observed = pl.col("observed_pp") - pl.col("truth")
    yield said_false("rmse of observed deltas", table.select((observed**2).mean().sqrt()).item())


class Line(NamedTuple):
    """A statement over all runs."""

    what: str
    n: int
    held: float | None
    """Share of the intervals that hold the truth; None: no interval."""
    held_se: float
    """Its standard error over runs; intervals of one run share its luck."""
    mean: float
    """Mean estimate."""
    truth: float
    width: float


def summarise(found: Sequence[Found]) -> list[Line]:
    """Return one line for each statement, in the order in which they first came."""
    lines = []
    for what in dict.fromkeys(each.what for each in found):
        parts = [each for each in found if each.what == what]
        estimate = np.concatenate([part.estimate for part in parts])
        truths = [np.where(np.isnan(part.truth), estimate.mean(), part.truth) for part in parts]
        known = [np.isfinite(part.low) for part in parts]
        held = [
            ((part.low <= truth) & (truth <= part.high))[there]
            for part, truth, there in zip(parts, truths, known, strict=True)
            if there.any()
        ]
        shares = np.array([each.mean() for each in held])
        widths = np.concatenate([(part.high - part.low)[there] for part, there in zip(parts, known, strict=True)])
        lines.append(
            Line(
                what,
                len(parts),
                float(np.concatenate(held).mean()) if held else None,
                float(shares.std(ddof=1) / len(shares) ** 0.5) if len(shares) > 1 else float("nan"),
                float(np.nanmean(estimate)),
                float(np.concatenate(truths).mean()),
                float(widths.mean()) if len(widths) else float("nan"),
            )
        )
    return lines
