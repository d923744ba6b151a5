"""Consistency Index: do models agree which recipients a source helps most?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import FloatArray
from transfergrid.analysis.tables.table import PAIR_COLUMNS, REASON, REGIME, Column, Table, TableInputs, schema_of
from transfergrid.grid import TRANSFER_REGIMES

UNITS = ("model", "family", "size")
"""What is compared; deltas are averaged within a unit first."""

MIN_RECIPIENTS, MIN_UNITS = 3, 2

_UNIT = Column("unit", pl.String, "", "What is compared: model, family or size.")
_SOURCE_COLUMNS = (
    _UNIT,
    REGIME,
    *PAIR_COLUMNS[:2],
    Column("n_units", pl.Int64, "units", "Models, families or sizes with a delta of this source."),
    Column("n_recipients", pl.Int64, "cells", "Targets with a delta of this source."),
    Column("n_pairs", pl.Int64, "pairs", "Pairs of units whose tau-b is defined."),
    Column("mean_tau_b", pl.Float64, "-1..1", "Kendall's tau-b between two units' deltas, mean over pairs of units."),
    REASON,
)


class ConsistencyTables(NamedTuple):
    """The index per source, and its median and quartiles over sources."""

    by_source: pl.DataFrame
    summary: pl.DataFrame


def tau_b_matrix(values: FloatArray) -> FloatArray:
    """Return Kendall's tau-b between every two rows.

    Args:
        values: Shape [U, R]: R values of U units; NaN: not known, left out of every pair of units it is in.

    Returns:
        Shape [U, U]; NaN where a unit's common values do not vary or fewer than `MIN_RECIPIENTS` are common.

    Source:
        Kendall 1945; as ``scipy.stats.kendalltau``.
    """
    first, second = np.triu_indices(values.shape[1], k=1)
    difference = values[:, first] - values[:, second]
    known = (~np.isnan(difference)).astype(np.float64)
    signs = np.sign(np.nan_to_num(difference))
    untied = (signs**2) @ known.T
    with np.errstate(invalid="ignore", divide="ignore"):
        tau: FloatArray = (signs @ signs.T) / np.sqrt(untied * untied.T)
    there = (~np.isnan(values)).astype(np.float64)
    tau[there @ there.T < MIN_RECIPIENTS] = np.nan
    return tau


def consistency_tables(rows: pl.DataFrame) -> ConsistencyTables:
    """Return the Consistency Index by source and regime, with models, families and sizes as units.

    Returns:
        ``by_source``: mean tau-b over pairs of units; null with a reason where it is not defined. ``summary``:
        per unit and regime ``n_sources``, ``median``, ``lower_quartile``, ``upper_quartile``.
    """
    there = rows.filter(pl.col("delta_pp").is_not_null())
    records = [record for unit in UNITS for record in _by_source(there, unit)]
    by_source = pl.DataFrame(records, schema=schema_of(_SOURCE_COLUMNS))
    return ConsistencyTables(by_source, _summary(by_source))


def _by_source(rows: pl.DataFrame, unit: str) -> Iterator[dict[str, object]]:
    source = pl.struct("source_task", "source_language")
    recipient = pl.struct("target_task", "target_language")
    keys = (pl.col("regime"), source.alias("source"), recipient.alias("recipient"), pl.col(unit).alias("unit"))
    deltas = rows.group_by(*keys, maintain_order=True).agg(pl.col("delta_pp").mean())
    for regime in TRANSFER_REGIMES:
        part = deltas.filter(pl.col("regime") == regime.value)
        codes = {name: (part[name].rank("dense") - 1).to_numpy() for name in ("unit", "source", "recipient")}
        values = np.full([int(each.max()) + 1 if len(each) else 0 for each in codes.values()], np.nan)
        values[tuple(codes.values())] = part["delta_pp"].to_numpy()
        for place, name in enumerate(part["source"].unique().sort().to_list()):
            found = values[:, place]
            there = ~np.isnan(found)
            known = found[there.any(axis=1)][:, there.any(axis=0)]
            yield {"unit": unit, "regime": regime.value, **name, **_index(known)}


def _index(values: FloatArray) -> dict[str, object]:
    n_units, n_recipients = values.shape
    found = {"n_units": n_units, "n_recipients": n_recipients, "n_pairs": 0}
    if n_units < MIN_UNITS:
        return {**found, "reason": f"{n_units} to compare; at least {MIN_UNITS} are needed"}
    if n_recipients < MIN_RECIPIENTS:
        return {**found, "reason": f"{n_recipients} recipients; at least {MIN_RECIPIENTS} are needed"}
    pairs = tau_b_matrix(values)[np.triu_indices(n_units, k=1)]
    defined = pairs[~np.isnan(pairs)]
    if not len(defined):
        return {**found, "reason": "every pair has constant deltas or too few common recipients"}
    left_out = len(pairs) - len(defined)
    reason = f"{left_out} of {len(pairs)} pairs left out: constant deltas or too few common recipients"
    return {
        **found,
        "n_pairs": len(defined),
        "mean_tau_b": float(defined.mean()),
        "reason": reason if left_out else None,
    }


def _summary(by_source: pl.DataFrame) -> pl.DataFrame:
    tau = pl.col("mean_tau_b")
    order = {regime.value: place for place, regime in enumerate(TRANSFER_REGIMES)}
    units = {unit: place for place, unit in enumerate(UNITS)}
    summary = by_source.group_by("unit", "regime").agg(
        n_sources=tau.count().cast(pl.Int64),
        n_sources_undefined=tau.null_count().cast(pl.Int64),
        median=tau.median(),
        lower_quartile=tau.quantile(0.25, "linear"),
        upper_quartile=tau.quantile(0.75, "linear"),
        reason=pl.when(tau.count() == 0).then(pl.col("reason").drop_nulls().sort().first()),
    )
    return summary.sort(
        pl.col("unit").replace_strict(units, return_dtype=pl.Int64),
        pl.col("regime").replace_strict(order, return_dtype=pl.Int64),
    )


def _both(inputs: TableInputs) -> ConsistencyTables:
    return consistency_tables(inputs.rows)


CONSISTENCY = Table(
    name="consistency",
    row="unit, regime",
    estimand=(
        "How far models (families, sizes) agree which targets a source helps most, over the sources of the run, for "
        "these models and items; noise of items pulls it towards 0."
    ),
    columns=(
        _UNIT,
        REGIME,
        Column("n_sources", pl.Int64, "cells", "Sources with an index."),
        Column("n_sources_undefined", pl.Int64, "cells", "Sources without one."),
        Column("median", pl.Float64, "-1..1", "Median of the index over sources."),
        Column("lower_quartile", pl.Float64, "-1..1", "Lower quartile over sources."),
        Column("upper_quartile", pl.Float64, "-1..1", "Upper quartile over sources."),
        REASON,
    ),
    shown="unit regime n_sources n_sources_undefined median lower_quartile upper_quartile",
    build=lambda inputs: inputs.once(_both).summary,
)

CONSISTENCY_BY_SOURCE = Table(
    name="consistency_by_source",
    row="unit, regime, source",
    estimand="How far models (families, sizes) agree which targets this source helps most, for these models and items.",
    columns=_SOURCE_COLUMNS,
    shown="unit regime source n_units n_recipients n_pairs mean_tau_b",
    build=lambda inputs: inputs.once(_both).by_source,
)
