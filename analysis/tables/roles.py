"""Donors and recipients: scores of languages, tasks and cells, and their ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import Float32Array
from transfergrid.analysis.records import ALL_TRANSFER, cell_name, in_regime
from transfergrid.analysis.statistics.bootstrap import DRAW_DECIMALS
from transfergrid.analysis.statistics.true_rates import true_rates
from transfergrid.analysis.tables.ranking import Kind, rank_units
from transfergrid.analysis.tables.table import (
    ONE_MODEL,
    REASON,
    REGIME,
    TRUE_RATES,
    Column,
    Table,
    schema_of,
    with_ends,
)
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime

HUB = "hub"
"""A donor whose score lies above the mean of its kind; all hubs of a ranking hold together at the level."""

FRAGILE = "fragile"
"""A recipient whose score lies below the mean of its kind; all fragile ones hold together at the level."""

ROLES = {"donor": "source", "recipient": "target"}

UNIT_REGIMES = {
    "language": (Regime.MT_CL.value, Regime.CT_CL.value),
    "language_family": (Regime.MT_CL.value, Regime.CT_CL.value),
    "task": (Regime.CT_ML.value, Regime.CT_CL.value),
    "cell": (Regime.MT_CL.value, Regime.CT_ML.value, Regime.CT_CL.value, ALL_TRANSFER),
}
"""What plays a role, and in which regimes; the first is the study's."""

ONE_NAME = "no ranking: one of its kind"
TOO_FEW = "no interval: too few sources, targets, models and items to resample"
NO_RANKS = "no rank interval: a unit is missing in more than 10 % of the resamples"
ONE_OTHER = {
    "donor": "no label, rank interval or harm interval: one target",
    "recipient": "no label, rank interval or harm interval: one source",
}
"""With one row per model a harm rate is 0 or 1 and an order is that of single pairs: resampling shows nothing."""

_SCORE_ENDS = with_ends(Column("score_pp", pl.Float64, "pp", ""))[1:]
_COLUMNS = (
    Column("role", pl.String, "", "`donor`: as source; `recipient`: as target."),
    Column("unit", pl.String, "", "What plays the role: language, language_family, task or cell."),
    REGIME,
    Column("models_by", pl.String, "", "How models are grouped: all, family or size."),
    Column("models", pl.String, "", "Which group of models."),
    Column("name", pl.String, "", "The language, language family, task or cell."),
    Column("n", pl.Int64, "rows", "Rows of the transfer table in the score."),
    Column("n_models", pl.Int64, "models", "Models in the score."),
    Column("score_pp", pl.Float64, "pp", "Mean over models of the model's mean delta in the unit's rows or columns."),
    Column("se_pp", pl.Float64, "pp", "Standard error of the score across models."),
    *_SCORE_ENDS,
    Column("graded_score_pp", pl.Float64, "pp", "The same mean of graded transfer, over the rows that have it."),
    Column("graded_se_pp", pl.Float64, "pp", "Standard error of `graded_score_pp` across models."),
    *with_ends(Column("rank", pl.Int64, "rank", "Place by score among the units; 1 is the highest.")),
    *(each._replace(meaning=f"{each.meaning} For all models together only.") for each in TRUE_RATES),
    Column("win_rate", pl.Float64, "0..1", "Share of the rows with a delta above 0, noise included."),
    *with_ends(Column("harm_rate", pl.Float64, "0..1", "Share of the rows beyond the harm cut, noise included.")),
    Column("label", pl.String, "", "`hub` or `fragile`."),
    REASON,
)


_UNIT = ["role", "unit", "regime", "models_by", "name"]


def unit_expr(role: str, unit: str) -> pl.Expr:
    """Return the name of a row's unit: its language, language family, task or cell, as source or as target."""
    return cell_name(ROLES[role]) if unit == "cell" else pl.col(f"{ROLES[role]}_{unit}")


def role_table(rows: pl.DataFrame, draws: Float32Array, settings: AnalysisConfig, truth: Float32Array) -> pl.DataFrame:
    """Return donor and recipient scores with standard errors, ranks with intervals, and labels.

    A score is the mean over models of the model's mean delta in the unit's rows (donor) or columns (recipient);
    its standard error is across models. Ranks, their intervals and labels are given for all models together.

    Args:
        rows: Transfer table.
        draws: Shape [rows, B] or [rows, 1]: deltas on resampled items, see `resample_deltas`.
        settings: Harm threshold, level, resamples and seed.
        truth: Shape [rows, B]: draws of true deltas, see `draw_true_deltas`.
    """
    there = rows.with_row_index("row").filter(pl.col("delta_pp").is_not_null())
    frames, members = [pl.DataFrame(schema=schema_of(_COLUMNS)).drop(column.name for column in TRUE_RATES)], []
    for kind in _kinds():
        part = there.filter(in_regime(kind.regime)).with_columns(name=unit_expr(kind.role, kind.unit))
        if part.height:
            frames.append(rank_all_models(part, kind, draws, settings))
            frames.extend(_model_groups(part, kind, settings))
            of_kind = {"role": kind.role, "unit": kind.unit, "regime": kind.regime, "models_by": "all"}
            found = part.group_by("name").agg("row").sort("name")
            members.append(found.with_columns(pl.lit(value).alias(name) for name, value in of_kind.items()))
    return _with_true_rates(pl.concat(frames, how="diagonal_relaxed"), members, truth, settings)


def _with_true_rates(
    table: pl.DataFrame, members: Sequence[pl.DataFrame], truth: Float32Array, settings: AnalysisConfig
) -> pl.DataFrame:
    """Add the true rates of every unit; all groups at once, since the draws of a large table are many."""
    units = pl.concat(members) if members else table.select(_UNIT).with_columns(row=pl.lit([]))
    groups = [np.array(index, dtype=np.intp) for index in units["row"].to_list()]
    rates = true_rates(truth, groups, harm_pp=settings.harm_threshold_pp, confidence=settings.confidence)
    ends = {
        f"{name}{end}": values
        for name, rate in rates.items()
        for end, values in zip(("", "_low", "_high"), rate, strict=True)
    }
    columns = [pl.Series(name, values, dtype=pl.Float64).fill_nan(None) for name, values in ends.items()]
    return table.join(
        units.select(_UNIT).with_columns(columns), on=_UNIT, how="left", validate="m:1", maintain_order="left"
    )


def _kinds() -> Iterator[Kind]:
    for role in ROLES:
        for unit, regimes in UNIT_REGIMES.items():
            for regime in regimes:
                yield Kind(role, unit, regime)


def rank_all_models(part: pl.DataFrame, kind: Kind, draws: Float32Array, settings: AnalysisConfig) -> pl.DataFrame:
    """Return scores, ranks and labels of all models; ``part`` has ``name`` and ``row``, its places in the draws."""
    scores = _scores(part.with_columns(models=pl.lit("all")), settings).with_columns(models_by=pl.lit("all"))
    scores = scores.with_columns(rank=_rank())
    if scores.height < 2:
        return _label(scores.with_columns(reason=pl.lit(ONE_NAME)), kind)
    ranked = rank_units(part, kind, scores, draws, settings)
    if ranked is None:
        return _label(scores.with_columns(reason=pl.lit(TOO_FEW)), kind)
    unranked = pl.when(pl.col("rank_low").is_null()).then(pl.lit(NO_RANKS))
    found = scores.with_columns(ranked).with_columns(reason=pl.coalesce("reason", unranked))
    return _label(_drop_of_one(found, part, kind), kind)


def _rank() -> pl.Expr:
    return pl.col("score_pp").round(DRAW_DECIMALS).rank("min", descending=True).cast(pl.Int64)


def _drop_of_one(scores: pl.DataFrame, part: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """Drop labels and intervals of ranks and harm where a unit has one source (recipient) or one target (donor)."""
    other = [f"{'target' if kind.role == 'donor' else 'source'}_{each}" for each in ("task", "language")]
    n_others = part.group_by("name").agg(several=pl.struct(other).n_unique() > 1)
    several = pl.col("several")
    dropped = ("rank_low", "rank_high", "harm_rate_low", "harm_rate_high", "stands_out")
    why = pl.when(~several).then(pl.lit(ONE_OTHER[kind.role]))
    return (
        scores.join(n_others, on="name", how="left", validate="m:1")
        .with_columns(
            *(pl.when(several).then(name).alias(name) for name in dropped),
            reason=pl.when(several | pl.col("reason").is_null())
            .then(pl.coalesce("reason", why))
            .otherwise(pl.concat_str("reason", why, separator="; ")),
        )
        .drop("several")
    )


def why_unlabelled(roles: pl.DataFrame, role: str) -> str | None:
    """Return why no unit in a role could get a label, ``one source`` or ``one target``; None: some could."""
    reasons = roles.filter(role=role, models_by="all")["reason"].fill_null("")
    unable = reasons.str.ends_with(ONE_OTHER[role])
    if unable.any() and (unable | reasons.is_in([ONE_NAME, TOO_FEW])).all():
        return ONE_OTHER[role].rpartition(": ")[2]
    return None


def _model_groups(part: pl.DataFrame, kind: Kind, settings: AnalysisConfig) -> Iterator[pl.DataFrame]:
    rank = _rank().over("models")
    for by in ("family", "size"):
        scores = _scores(part.with_columns(models=by), settings).with_columns(models_by=pl.lit(by))
        yield _label(scores.with_columns(rank=rank), kind)


def _scores(part: pl.DataFrame, settings: AnalysisConfig) -> pl.DataFrame:
    """Return one row per (models, name), sorted; ``part`` has the group of models in ``models``."""
    keys = ["models", "name"]
    delta = pl.col("delta_pp")
    by_model = part.group_by(*keys, "model", maintain_order=True).agg(
        mean=delta.mean(),
        graded=pl.col("graded_pp").mean(),
        n=pl.len(),
        n_win=(delta > 0).sum(),
        n_harm=(delta <= settings.harm_threshold_pp).sum(),
    )
    n = pl.col("n").sum()
    return (
        by_model.group_by(keys, maintain_order=True)
        .agg(
            n=n.cast(pl.Int64),
            n_models=pl.len().cast(pl.Int64),
            score_pp=pl.col("mean").mean(),
            se_pp=pl.col("mean").std() / pl.len().sqrt(),
            graded_score_pp=pl.col("graded").mean(),
            graded_se_pp=pl.col("graded").std() / pl.col("graded").count().sqrt(),
            win_rate=pl.col("n_win").sum() / n,
            harm_rate=pl.col("n_harm").sum() / n,
        )
        .with_columns(reason=pl.when(pl.col("n_models") < 2).then(pl.lit(ONE_MODEL)))
        .sort(keys)
    )


def _label(scores: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    label = pl.lit(HUB if kind.role == "donor" else FRAGILE)
    return scores.with_columns(
        role=pl.lit(kind.role),
        unit=pl.lit(kind.unit),
        regime=pl.lit(kind.regime),
        label=pl.when("stands_out").then(label) if "stands_out" in scores.columns else None,
    ).sort("models", "rank", "name")


ROLES_TABLE = Table(
    name="roles",
    row="role, unit, regime, models_by, models, name",
    estimand=(
        "Mean delta that a language, language family, task or cell gives as source or gets as target, over the other "
        "side and items like these, for models like these."
    ),
    columns=_COLUMNS,
    shown="role unit regime models name score_pp rank ranks harm_rate_true label",
    build=lambda inputs: role_table(inputs.rows, inputs.draws, inputs.settings, inputs.truth),
)
