"""Donor x recipient means of languages, language families and tasks."""

from __future__ import annotations

import polars as pl

from transfergrid.analysis.records import EVERY_REGIME, in_regime
from transfergrid.analysis.tables.table import ONE_MODEL, REASON, REGIME, Column, Table, schema_of
from transfergrid.grid import Regime

_COLUMNS = (
    Column("source", pl.String, "", "Language, language family or task of the sources."),
    Column("target", pl.String, "", "Language, language family or task of the targets."),
    Column("n", pl.Int64, "rows", "Rows of the transfer table in the mean."),
    Column("n_models", pl.Int64, "models", "Models in the mean."),
    Column("mean_pp", pl.Float64, "pp", "Mean over models of the model's mean delta."),
    Column("se_pp", pl.Float64, "pp", "Standard error of `mean_pp` across models; null for one model."),
    Column("graded_mean_pp", pl.Float64, "pp", "The same mean of graded transfer, over the rows that have it."),
    Column("graded_se_pp", pl.Float64, "pp", "Standard error of `graded_mean_pp` across models."),
    REASON,
)
_NAMES = tuple(column.name for column in _COLUMNS)


def matrix_table(rows: pl.DataFrame) -> pl.DataFrame:
    """Return donor x recipient means: one row per (unit, regime, source, target).

    Units are languages, language families and tasks. Columns ``mean_pp`` (mean over models of the model's mean
    delta), ``se_pp`` (across models, null for one), ``n`` (rows), ``n_models`` and ``reason``.
    """
    there = rows.filter(pl.col("delta_pp").is_not_null())
    frames = [
        _matrix(there.filter(in_regime(regime)), unit).select(
            pl.lit(unit).alias("unit"), pl.lit(regime).alias("regime"), *_NAMES
        )
        for unit in ("language", "language_family", "task")
        for regime in EVERY_REGIME
    ]
    return pl.concat(frames)


def language_matrix_table(rows: pl.DataFrame) -> pl.DataFrame:
    """Return every task's language x language means over MT-CL: one row per (task, source, target).

    Returns:
        Columns as in `matrix_table`, with ``task`` in place of unit and regime.
    """
    there = rows.filter(pl.col("delta_pp").is_not_null() & in_regime(Regime.MT_CL.value))
    frames = [
        _matrix(there.filter(target_task=task), "language").select(pl.lit(task).alias("task"), *_NAMES)
        for task in there["target_task"].unique().sort()
    ]
    empty = pl.DataFrame(schema={"task": pl.String, **schema_of(_COLUMNS)})
    return pl.concat([empty, *frames])


def _matrix(part: pl.DataFrame, unit: str) -> pl.DataFrame:
    by_model = part.group_by("model", source=f"source_{unit}", target=f"target_{unit}", maintain_order=True).agg(
        mean=pl.col("delta_pp").mean(), graded=pl.col("graded_pp").mean(), n=pl.len()
    )
    return (
        by_model.group_by("source", "target", maintain_order=True)
        .agg(
            n=pl.col("n").sum().cast(pl.Int64),
            n_models=pl.len().cast(pl.Int64),
            mean_pp=pl.col("mean").mean(),
            se_pp=pl.col("mean").std() / pl.len().sqrt(),
            graded_mean_pp=pl.col("graded").mean(),
            graded_se_pp=pl.col("graded").std() / pl.col("graded").count().sqrt(),
        )
        .with_columns(reason=pl.when(pl.col("n_models") < 2).then(pl.lit(ONE_MODEL)))
        .sort("source", "target")
    )


MATRICES = Table(
    name="matrices",
    row="unit, regime, source, target",
    estimand=(
        "Mean delta from one language, language family or task to another, over the cells of that kind, for models "
        "like these and these items."
    ),
    columns=(
        Column("unit", pl.String, "", "What source and target are: language, language_family or task."),
        REGIME,
        *_COLUMNS,
    ),
    shown="unit regime source target n n_models mean_pp se_pp",
    build=lambda inputs: matrix_table(inputs.rows),
)

LANGUAGE_MATRICES = Table(
    name="language_matrices",
    row="task, source, target",
    estimand="Mean MT-CL delta from one language to another within one task, for models like these and these items.",
    columns=(Column("task", pl.String, "", "Task of source and target."), *_COLUMNS),
    shown="task source target n n_models mean_pp se_pp",
    build=lambda inputs: language_matrix_table(inputs.rows),
)
