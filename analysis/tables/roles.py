"""Donors and recipients: scores of languages, tasks and cells, and their ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from transfergrid.analysis.records import ALL_TRANSFER, in_regime
from transfergrid.analysis.statistics.bootstrap import (
    DRAW_DECIMALS,
    MIN_VALID_SHARE,
    ClusterBootstrap,
    Interval,
    centred_interval,
    count_levels,
)
from transfergrid.analysis.statistics.group_draws import Group, resample_groups
from transfergrid.analysis.statistics.group_intervals import DrawArray
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime

HUB = "hub"
"""A donor whose score's interval, measured from the mean of its kind, lies above 0."""

FRAGILE = "fragile"
"""A recipient whose harm rate's interval, measured from the mean of its kind, lies above 0."""

ROLES = {"donor": "source", "recipient": "target"}

UNIT_REGIMES = {
    "language": (Regime.MT_CL.value, Regime.CT_CL.value),
    "language_family": (Regime.MT_CL.value, Regime.CT_CL.value),
    "task": (Regime.CT_ML.value, Regime.CT_CL.value),
    "cell": (Regime.MT_CL.value, Regime.CT_ML.value, Regime.CT_CL.value, ALL_TRANSFER),
}
"""What plays a role, and in which regimes; the first is the study's."""

ONE_MODEL = "no standard error: one model"
ONE_NAME = "no ranking: one of its kind"
TOO_FEW = "no interval: too few sources, targets, models and items to resample"
NO_RANKS = "no rank interval: a unit is missing in more than 10 % of the resamples"
ONE_OTHER = {
    "donor": "no label, rank interval or harm interval: one target",
    "recipient": "no label, rank interval or harm interval: one source",
}
"""With one row per model a harm rate is 0 or 1 and an order is that of single pairs: resampling tells nothing."""

_SCHEMA = {
    "role": pl.String,
    "unit": pl.String,
    "regime": pl.String,
    "models_by": pl.String,
    "models": pl.String,
    "name": pl.String,
    "n": pl.Int64,
    "n_models": pl.Int64,
    "score_pp": pl.Float64,
    "se_pp": pl.Float64,
    "score_pp_low": pl.Float64,
    "score_pp_high": pl.Float64,
    "rank": pl.Int64,
    "rank_low": pl.Int64,
    "rank_high": pl.Int64,
    "win_rate": pl.Float64,
    "harm_rate": pl.Float64,
    "harm_rate_low": pl.Float64,
    "harm_rate_high": pl.Float64,
    "label": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True, slots=True)
class _Kind:
    role: str
    unit: str
    regime: str


def unit_expr(role: str, unit: str) -> pl.Expr:
    """Return the name of a row's unit: its language, language family, task or cell, as source or as target."""
    side = ROLES[role]
    if unit == "cell":
        return pl.concat_str(f"{side}_task", f"{side}_language", separator="-")
    return pl.col(f"{side}_{unit}")


def role_table(rows: pl.DataFrame, draws: DrawArray, settings: AnalysisConfig) -> pl.DataFrame:
    """Return donor and recipient scores with standard errors, ranks with intervals, and labels.

    A score is the mean over models of the model's mean delta in the unit's rows (donor) or columns (recipient);
    its standard error is across models. Ranks, their intervals and labels are given for all models together.

    Args:
        rows: Transfer table.
        draws: Shape [rows, B] or [rows, 1]: deltas on resampled items, see `resample_deltas`.
        settings: Harm threshold, level, resamples and seed.
    """
    there = rows.with_row_index("row").filter(pl.col("delta_pp").is_not_null())
    frames = [pl.DataFrame(schema=_SCHEMA)]
    for kind in _kinds():
        part = there.filter(in_regime(kind.regime)).with_columns(name=unit_expr(kind.role, kind.unit))
        if part.height:
            frames.append(_all_models(part, kind, draws, settings))
            frames.extend(_model_groups(part, kind, settings))
    return pl.concat([frame.select(list(_SCHEMA)) for frame in frames])


def _kinds() -> Iterator[_Kind]:
    for role in ROLES:
        for unit, regimes in UNIT_REGIMES.items():
            for regime in regimes:
                yield _Kind(role, unit, regime)


def _all_models(part: pl.DataFrame, kind: _Kind, draws: DrawArray, settings: AnalysisConfig) -> pl.DataFrame:
    scores = _scores(part.with_columns(models=pl.lit("all")), settings).with_columns(models_by=pl.lit("all"))
    scores = scores.with_columns(rank=_rank())
    if scores.height < 2:
        return _label(scores.with_columns(_nothing(), reason=pl.lit(ONE_NAME)), kind)
    ranked = _ranking(part, kind, scores, draws, settings)
    if ranked is None:
        return _label(scores.with_columns(_nothing(), reason=pl.lit(TOO_FEW)), kind)
    unranked = pl.when(pl.col("rank_low").is_null()).then(pl.lit(NO_RANKS))
    found = scores.with_columns(_ranking_columns(ranked)).with_columns(reason=pl.coalesce("reason", unranked))
    return _label(_drop_of_one(found, part, kind), kind)


def _rank() -> pl.Expr:
    return pl.col("score_pp").round(DRAW_DECIMALS).rank("min", descending=True).cast(pl.Int64)


def _drop_of_one(scores: pl.DataFrame, part: pl.DataFrame, kind: _Kind) -> pl.DataFrame:
    """Drop labels and intervals of ranks and harm where a unit has one source (recipient) or one target (donor)."""
    other = [f"{'target' if kind.role == 'donor' else 'source'}_{each}" for each in ("task", "language")]
    n_others = part.group_by("name").agg(several=pl.struct(other).n_unique() > 1)
    several = pl.col("several")
    dropped = ("rank_low", "rank_high", "harm_rate_low", "harm_rate_high", "above_mean_low", "harm_above_mean_low")
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


def _model_groups(part: pl.DataFrame, kind: _Kind, settings: AnalysisConfig) -> Iterator[pl.DataFrame]:
    rank = _rank().over("models")
    for by in ("family", "size"):
        scores = _scores(part.with_columns(models=by), settings).with_columns(models_by=pl.lit(by))
        yield _label(scores.with_columns(_nothing(), rank=rank), kind)


def _scores(part: pl.DataFrame, settings: AnalysisConfig) -> pl.DataFrame:
    """Return one row per (models, name), sorted; ``part`` has the group of models in ``models``."""
    keys = ["models", "name"]
    delta = pl.col("delta_pp")
    by_model = part.group_by(*keys, "model", maintain_order=True).agg(
        mean=delta.mean(),
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
            win_rate=pl.col("n_win").sum() / n,
            harm_rate=pl.col("n_harm").sum() / n,
        )
        .with_columns(reason=pl.when(pl.col("n_models") < 2).then(pl.lit(ONE_MODEL)))
        .sort(keys)
    )


class Ranking(NamedTuple):
    """Intervals of G units, each end of shape [G]."""

    score: Interval
    above_mean: Interval
    harm_rate: Interval
    harm_above_mean: Interval
    rank: Interval


def _ranking(
    part: pl.DataFrame, kind: _Kind, scores: pl.DataFrame, draws: DrawArray, settings: AnalysisConfig
) -> Ranking | None:
    """Resample models, items and the other side; None where that leaves nothing to resample."""
    other = "targets" if kind.role == "donor" else "sources"
    bootstrap = ClusterBootstrap(part, draws[part["row"].to_numpy()], settings)
    factors = [name for name in ("models", other) if count_levels(bootstrap.levels[name]) > 1]
    if not factors and not bootstrap.has_items:
        return None
    places = part.with_row_index("place").group_by("name").agg("place").sort("name")
    groups = [Group(kind.regime, kind.unit, name, np.array(index, dtype=np.intp)) for name, index in places.iter_rows()]
    drawn = resample_groups(
        bootstrap, part["delta_pp"].to_numpy(), groups, factors=factors, harm_pp=settings.harm_threshold_pp
    )
    found = _rank_draws(drawn.mean_pp, drawn.harm_rate, scores, settings.confidence)
    return found if np.isfinite(found.score.low).all() else None


def _rank_draws(
    means: npt.NDArray[np.float32], harms: npt.NDArray[np.float32], scores: pl.DataFrame, confidence: float
) -> Ranking:
    score, harm = scores["score_pp"].to_numpy(), scores["harm_rate"].to_numpy()
    harm_interval = centred_interval(harms, harm, confidence)
    return Ranking(
        centred_interval(means, score, confidence),
        centred_interval(means - means.mean(axis=0), score - score.mean(), confidence),
        Interval(np.clip(harm_interval.low, 0, 1), np.clip(harm_interval.high, 0, 1)),
        centred_interval(harms - harms.mean(axis=0), harm - harm.mean(), confidence),
        rank_interval(means, confidence),
    )


def rank_interval(draws: npt.NDArray[np.floating], confidence: float) -> Interval:
    """Return percentile intervals of ranks over resamples; rank 1 is the highest value.

    Units that tie in a resample share its lowest rank at the low end and its highest at the high end.

    Args:
        draws: Shape [G, B]; resamples in which a unit is missing (NaN) are left out.
        confidence: Level, 0..1.

    Returns:
        Shape [G] each; NaN where too few resamples are complete.
    """
    complete = draws[:, np.isfinite(draws).all(axis=0)]
    if complete.shape[1] < MIN_VALID_SHARE * draws.shape[1]:
        nothing = np.full(len(draws), np.nan)
        return Interval(nothing, nothing)
    values = -complete.round(DRAW_DECIMALS)
    tail = (1 - confidence) / 2
    low, high = (
        np.quantile(stats.rankdata(values, method=method, axis=0), level, axis=1, method="inverted_cdf")
        for method, level in (("min", tail), ("max", 1 - tail))
    )
    return Interval(low.astype(np.float64), high.astype(np.float64))


def _ranking_columns(ranking: Ranking) -> list[pl.Series]:
    columns = {
        "score_pp_low": ranking.score.low,
        "score_pp_high": ranking.score.high,
        "harm_rate_low": ranking.harm_rate.low,
        "harm_rate_high": ranking.harm_rate.high,
        "above_mean_low": ranking.above_mean.low,
        "harm_above_mean_low": ranking.harm_above_mean.low,
    }
    ranks = {"rank_low": ranking.rank.low, "rank_high": ranking.rank.high}
    return [
        *(pl.Series(name, values).fill_nan(None) for name, values in columns.items()),
        *(pl.Series(name, values).fill_nan(None).cast(pl.Int64) for name, values in ranks.items()),
    ]


def _nothing() -> list[pl.Expr]:
    floats = ("score_pp_low", "score_pp_high", "harm_rate_low", "harm_rate_high")
    centred = ("above_mean_low", "harm_above_mean_low")
    return [
        *(pl.lit(None, dtype=pl.Float64).alias(name) for name in (*floats, *centred)),
        *(pl.lit(None, dtype=pl.Int64).alias(name) for name in ("rank_low", "rank_high")),
    ]


def _label(scores: pl.DataFrame, kind: _Kind) -> pl.DataFrame:
    column, label = ("above_mean_low", HUB) if kind.role == "donor" else ("harm_above_mean_low", FRAGILE)
    return scores.with_columns(
        role=pl.lit(kind.role),
        unit=pl.lit(kind.unit),
        regime=pl.lit(kind.regime),
        label=pl.when(pl.col(column) > 0).then(pl.lit(label)),
    ).sort("models", "rank", "name")
