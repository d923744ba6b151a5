"""Regimes: how often and how far training on one cell helps or harms another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
from scipy import special

from transfergrid.analysis.arrays import Float32Array, FloatArray
from transfergrid.analysis.graded.groups import graded_of_groups
from transfergrid.analysis.records import EVERY_REGIME, ItemBlock, in_regime
from transfergrid.analysis.statistics.group_draws import Group
from transfergrid.analysis.statistics.group_intervals import Intervals, estimate, intervals
from transfergrid.analysis.statistics.significance import (
    EXACT_MCNEMAR,
    benjamini_hochberg,
    beyond_cut_p,
    harm_by_chance,
    holds_fdr,
)
from transfergrid.analysis.statistics.true_rates import true_rates
from transfergrid.analysis.tables.table import (
    CONFIDENCE,
    FEW_ITEMS,
    PRIOR_DECIDES,
    REASON,
    REGIME,
    TRUE_RATES,
    Column,
    Table,
    schema_of,
    with_ends,
)
from transfergrid.analysis.transfer.adaptive import STOPPED, with_tested
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime
from transfergrid.store.imported import SE_OF_SEEDS

DIMENSIONS = (
    "model",
    "family",
    "size",
    "source_task",
    "target_task",
    "source_language",
    "target_language",
    "source_language_family",
    "target_language_family",
    "construction",
)
"""Columns of the transfer table that regimes are broken down by."""

NO_ROWS = "no rows with a delta in this regime"
NO_TRUE_RATES = (
    "no true rates: rows without a standard error, or too few sources and targets to tell noise from effects"
)
SEEDS_ONLY = "imported standard errors are across training seeds and leave out the noise of items and of the baseline"

GRADED = (
    Column("n_graded", pl.Int64, "rows", "Rows with graded transfer."),
    *with_ends(Column("graded_mean_pp", pl.Float64, "pp", "Mean graded transfer of the rows that have it.")),
    Column("graded_loss_rate_significant", pl.Float64, "0..1", "Share of them below 0 with `graded_q` <= `fdr`."),
    Column("graded_win_rate_significant", pl.Float64, "0..1", "Share of them above 0 with `graded_q` <= `fdr`."),
)
_COLUMNS = (
    REGIME,
    Column("by", pl.String, "", "What rows are grouped by; `all`: the whole regime."),
    Column("group", pl.String, "", "Which group."),
    Column("n", pl.Int64, "rows", "Rows of the transfer table with a delta."),
    *with_ends(Column("mean_pp", pl.Float64, "pp", "Mean delta of the rows.")),
    *with_ends(Column("median_pp", pl.Float64, "pp", "Median delta of the rows.")),
    *TRUE_RATES,
    *with_ends(Column("win_rate", pl.Float64, "0..1", "Share of the rows with a delta above 0, noise included.")),
    *with_ends(Column("harm_rate", pl.Float64, "0..1", "Share of the rows beyond the harm cut, noise included.")),
    Column("resampled", pl.String, "", "What intervals are over: items, sources, targets like these."),
    REASON,
    Column("n_tested", pl.Int64, "rows", "Rows with a test."),
    Column(
        "harm_rate_significant", pl.Float64, "0..1", "Share of the tested rows that lie beyond the harm cut for sure."
    ),
    Column("loss_rate_significant", pl.Float64, "0..1", "Share of the tested rows that lie below 0 with q <= `fdr`."),
    Column("win_rate_significant", pl.Float64, "0..1", "Share of the tested rows that lie above 0 with q <= `fdr`."),
    Column("harm_rate_by_chance", pl.Float64, "0..1", "What `harm_rate` would be if every true delta were 0."),
    Column("median_se_pp", pl.Float64, "pp", "Median standard error of the rows in which an answer changed."),
    Column("se_origin", pl.String, "", "All origins of standard errors that occur."),
    *GRADED,
    Column("harm_threshold_items", pl.Int64, "items", "The cut in items of a target."),
    Column("harm_threshold_pp", pl.Float64, "pp", "A delta at or below this is harm (setting)."),
    CONFIDENCE,
    Column("fdr", pl.Float64, "0..1", "False discovery rate of the tests (setting)."),
)


def regime_table(
    rows: pl.DataFrame,
    draws: Float32Array,
    settings: AnalysisConfig,
    truth: Float32Array,
    *,
    items: Sequence[ItemBlock] = (),
    graded_items: Sequence[ItemBlock] = (),
) -> pl.DataFrame:
    """Return n, mean, median, win and harm rate with intervals, by regime and by every one of `DIMENSIONS`.

    Args:
        rows: Transfer table.
        draws: Shape [rows, B] or [rows, 1]: deltas on resampled items, see `resample_deltas`.
        settings: Harm threshold, level, resamples, seed and false discovery rate.
        truth: Shape [rows, B]: draws of true deltas, see `draw_true_deltas`.
        items: Item-wise differences, for the intervals of the means.
        graded_items: What items add to graded transfer, for the same.

    Returns:
        One row per (regime, by, group). A regime without rows has n 0 and a reason; an interval that cannot be
        computed is null with a reason.
    """
    usable = rows["delta_pp"].is_not_null()
    there = rows.filter(usable)
    groups = list(_groups(there))
    empty = [regime for regime in EVERY_REGIME if not there.filter(in_regime(regime)).height]
    frames = [_empty_rows(empty, settings)]
    if groups:
        ends = intervals(there, draws[usable.to_numpy()], groups, settings, items=items)
        found = _summarise(there, ends, truth[usable.to_numpy()], groups, settings)
        frames.insert(0, pl.concat([found, graded_of_groups(there, groups, graded_items, settings)], how="horizontal"))
    order = {name: place for place, name in enumerate(EVERY_REGIME)}
    by_order = {name: place for place, name in enumerate(("all", *DIMENSIONS))}
    everything = pl.concat(frames, how="diagonal_relaxed").select(column.name for column in _COLUMNS)
    return everything.sort(
        pl.col("regime").replace_strict(order, return_dtype=pl.Int64),
        pl.col("by").replace_strict(by_order, return_dtype=pl.Int64),
        "group",
    )


def _groups(rows: pl.DataFrame) -> Iterator[Group]:
    indexed = rows.with_row_index("place")
    for regime in EVERY_REGIME:
        part = indexed.filter(in_regime(regime))
        if not part.height:
            continue
        yield Group(regime, "all", "all", part["place"].to_numpy().astype(np.intp))
        for by in DIMENSIONS:
            places = part.group_by(by).agg("place").sort(by)
            for name, index in places.iter_rows():
                yield Group(regime, by, name, np.sort(np.array(index, dtype=np.intp)))


def _summarise(
    rows: pl.DataFrame, ends: Intervals, truth: Float32Array, groups: Sequence[Group], settings: AnalysisConfig
) -> pl.DataFrame:
    deltas = rows["delta_pp"].to_numpy()
    found = estimate(deltas, groups, settings.harm_threshold_pp)
    columns: dict[str, object] = {
        "regime": [group.regime for group in groups],
        "by": [group.by for group in groups],
        "group": [group.name for group in groups],
        "n": [len(group.index) for group in groups],
    }
    for name, values in found.items():
        columns |= {name: values, f"{name}_low": ends.ends[name].low, f"{name}_high": ends.ends[name].high}
    indices = [group.index for group in groups]
    rates = true_rates(truth, indices, harm_pp=settings.harm_threshold_pp, confidence=settings.confidence)
    for name, rate in rates.items():
        columns |= {name: rate.rate, f"{name}_low": rate.low, f"{name}_high": rate.high}
    frame = pl.DataFrame(columns | {"resampled": ends.resampled, "reason": ends.reasons}, strict=False)
    frame = frame.with_columns(pl.col(pl.Float64).fill_nan(None), pl.col("reason").cast(pl.String))
    n_items = rows["n_items"].cast(pl.Float64).fill_null(np.inf).to_numpy()
    has_few = pl.Series([bool(np.median(n_items[index]) < FEW_ITEMS) for index in indices], dtype=pl.Boolean)
    unknown = pl.col("win_rate_true").is_null()
    no_rates = (
        pl.when(unknown & (pl.col("regime") != Regime.MT_ML.value))
        .then(pl.lit(NO_TRUE_RATES))
        .when(has_few & ~unknown)
        .then(pl.lit(PRIOR_DECIDES))
    )
    frame = frame.with_columns(
        reason=pl.concat_str("reason", no_rates, separator="; ", ignore_nulls=True).replace("", None)
    )
    return _with_settings(pl.concat([frame, _significance(rows, groups, settings)], how="horizontal"), settings)


def _significance(rows: pl.DataFrame, groups: Sequence[Group], settings: AnalysisConfig) -> pl.DataFrame:
    deltas = with_tested(rows)["delta_pp"].to_numpy()
    q_values = rows["q_value"].fill_null(np.nan).to_numpy()
    errors = rows.select(pl.col("se_pp").replace(0.0, None)).to_series().fill_null(np.nan).to_numpy()
    of_seeds = (rows["se_origin"] == SE_OF_SEEDS).fill_null(False).to_numpy()
    significant = holds_fdr(q_values, settings.fdr)
    beyond = holds_fdr(_beyond_cut_q(rows, settings.harm_threshold_pp), settings.fdr)
    events = {
        "harm_rate_significant": beyond,
        "loss_rate_significant": significant & (deltas < 0),
        "win_rate_significant": significant & (deltas > 0),
    }
    by_chance = harm_by_chance_of_rows(rows, settings.harm_threshold_pp)
    records = []
    for group in groups:
        index = group.index
        tested = ~np.isnan(q_values[index])
        n_tested = int(tested.sum())
        record: dict[str, object] = {
            name: float(event[index].sum() / n_tested) if n_tested else None for name, event in events.items()
        }
        record |= {
            "n_tested": n_tested,
            "harm_rate_by_chance": None if of_seeds[index].any() else _of_known(np.mean, by_chance[index]),
            "se_origin": ", ".join(rows["se_origin"][index].unique().drop_nulls().sort()) or None,
            "median_se_pp": _of_known(np.median, errors[index]),
            "harm_threshold_items": _threshold_items(rows["n_items"][index], settings.harm_threshold_pp),
        }
        records.append(record)
    names = records[0].keys() if records else ()
    return pl.DataFrame(records, schema={name: dtype for name, dtype in schema_of(_COLUMNS).items() if name in names})


def _beyond_cut_q(rows: pl.DataFrame, cut_pp: float) -> FloatArray:
    """Return q of the one-sided test against the harm cut, all rows being one family; NaN: no test."""
    there = with_tested(rows)
    delta, se, df = (there[name].fill_null(np.nan).to_numpy() for name in ("delta_pp", "se_pp", "df"))
    p_values = beyond_cut_p(delta, se, df, cut_pp)
    if "decision" in rows.columns:
        p_values = np.where((rows["decision"] == STOPPED).fill_null(False).to_numpy(), 1.0, p_values)
    return benjamini_hochberg(np.where(rows["q_value"].is_not_null().to_numpy(), p_values, np.nan))


def harm_by_chance_of_rows(rows: pl.DataFrame, cut_pp: float) -> FloatArray:
    """Return every row's probability of harm if its true delta were 0, shape [N]; NaN: not known.

    Right or wrong answers of one seed: exact on the counts, the changed items from the standard error. Else a normal
    distribution on the lattice of single answers, half a step of which lies on the harmful side of the cut.
    """
    delta, se = (rows[name].fill_null(np.nan).to_numpy() for name in ("delta_pp", "se_pp"))
    n_items, n_seeds = (rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("n_items", "n_seeds"))
    net = delta * n_items / 100
    changed = np.round((se / 100) ** 2 * n_items * (n_items - 1) + net**2 / n_items)
    exact = (rows["p_method"] == EXACT_MCNEMAR).fill_null(False).to_numpy()
    counted = exact & np.isfinite(changed)
    half_step = np.nan_to_num(50 / (n_items * n_seeds))
    with np.errstate(invalid="ignore", divide="ignore"):
        normal = np.where(se > 0, special.ndtr((cut_pp + half_step) / se), np.where(se == 0, 0.0, np.nan))
    return np.where(counted, harm_by_chance(np.where(counted, changed, 0), n_items, cut_pp), normal)


def _of_known(average: Callable[[np.ndarray], np.floating], values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(average(known)) if len(known) else None


def _threshold_items(n_items: pl.Series, threshold_pp: float) -> int | None:
    known = n_items.drop_nulls()
    if known.is_empty():
        return None
    return math.ceil(-threshold_pp / 100 * float(known.median()) - 1e-9)  # type: ignore[arg-type]


def _empty_rows(regimes: Sequence[str], settings: AnalysisConfig) -> pl.DataFrame:
    rows = [
        {"regime": regime, "by": "all", "group": "all", "n": 0, "n_tested": 0, "n_graded": 0, "reason": NO_ROWS}
        for regime in regimes
    ]
    return _with_settings(pl.DataFrame(rows, schema=schema_of(_COLUMNS)), settings)


def _with_settings(frame: pl.DataFrame, settings: AnalysisConfig) -> pl.DataFrame:
    return frame.with_columns(
        harm_threshold_pp=pl.lit(settings.harm_threshold_pp),
        confidence=pl.lit(settings.confidence),
        fdr=pl.lit(settings.fdr),
    )


REGIMES = Table(
    name="regimes",
    row="regime, by, group",
    estimand=(
        "True rates: share of these pairs whose true delta is above 0 or beyond the cut, over items like these. "
        "Mean: of true deltas over sources, targets and items like these. Median and the other rates: of observed "
        "deltas, noise included, over the same. All for these models."
    ),
    columns=_COLUMNS,
    shown="regime group n mean_pp mean_pp_low mean_pp_high win_rate_true harm_rate_true harm_rate",
    build=lambda inputs: regime_table(
        inputs.rows,
        inputs.draws,
        inputs.settings,
        inputs.truth,
        items=inputs.transfer.items,
        graded_items=inputs.transfer.graded_items,
    ),
)
