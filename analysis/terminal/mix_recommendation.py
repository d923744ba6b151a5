"""Which mixture of sources a target is expected to gain most from, under a limit of harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text
from scipy import special

from transfergrid.analysis.mixing.additivity import Additivity, Mixes, fit_additivity, rank_mixes
from transfergrid.analysis.records import ALL_TRANSFER, TARGET, Transfer, at_target, cell_name, in_regime
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.tables.recommendation import choose_rows, estimate_pairs, noisy_pairs
from transfergrid.analysis.tables.table import TableReport
from transfergrid.analysis.terminal.plain_table import plain_table
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import IN_MIX, MIXTURE_KIND, Cell, UserError
from transfergrid.wording import level

HARM_LIMIT = 0.2
"""A mixture whose probability of harm is above this is not proposed."""
SHOWN = 10
"""Mixtures that are listed."""


@dataclass(frozen=True, slots=True)
class MixRecommendation(TableReport):
    """Mixtures for one target, best first."""

    target: Cell
    models: tuple[str, ...]
    table: pl.DataFrame
    """One row per mixture: sources, estimate with interval, probabilities, measured delta."""
    settings: AnalysisConfig
    notes: tuple[str, ...]

    def __rich__(self) -> RenderableType:
        """Show the mixtures, what is assumed and what was measured."""
        whose = self.models[0] if len(self.models) == 1 else f"{len(self.models)} models"
        table = plain_table(Text(f"Mixtures for {self.target.name} ({whose}), best first"))
        table.add_column("sources", overflow="fold")
        for name in ("estimate", f"{level(self.settings.confidence)} interval", "P(harm)", "P(help)", "measured"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.table.iter_rows(named=True):
            measured = "-" if row["measured_pp"] is None else f"{row['measured_pp']:+.2f}"
            interval = f"{row['low_pp']:+.2f} .. {row['high_pp']:+.2f}"
            shares = [f"{row[name]:.0%}" for name in ("p_harm", "p_help")]
            table.add_row(row["sources"], f"{row['estimate_pp']:+.2f}", interval, *shares, measured)
        harm = f"in pp; harm: delta <= {self.settings.harm_threshold_pp:g} pp"
        limit = f"only mixtures with P(harm) <= {HARM_LIMIT:.0%}"
        return Group(table, Text("\n".join([*self.notes, f"{harm}; {limit}"])))


def recommend_mix(
    transfer: Transfer, settings: AnalysisConfig, *, target: Cell, most: int, model: str | None = None
) -> MixRecommendation:
    """Rank mixtures of up to ``most`` sources for a target.

    Args:
        transfer: The transfer tables of a run.
        settings: Level, harm threshold and seed.
        target: The cell to find a mixture for.
        most: Largest number of sources.
        model: Use this model only; None: all models.

    Raises:
        UserError: If there is no transfer row, or the target or model is not there, or no estimate has an interval.
    """
    rows = choose_rows(transfer.rows, target, model)
    there = rows.filter(pl.col("delta_pp").is_not_null())
    pairs = noisy_pairs(there.filter(in_regime(ALL_TRANSFER)), transfer.items)
    estimates = estimate_pairs(pairs, settings).with_columns(part=cell_name("source"))
    known = estimates.filter(at_target(target) & pl.col("low_pp").is_not_null()).sort("part")
    if known.is_empty():
        raise UserError(
            f"no source of {target.name!r} has an estimate with an interval; 'grid eval' scores sources on it"
        )
    models = tuple(there["model"].unique().sort())
    measured = _measured(transfer, models)
    fits = {size: _fit(measured, estimates, size) for size in range(2, most + 1)}
    z = float(special.ndtri(1 - (1 - settings.confidence) / 2))
    variances = ((known["high_pp"] - known["low_pp"]) / (2 * z)).to_numpy() ** 2
    here = _measured_here(measured.filter(at_target(target)), known["part"].to_list())
    mixes = rank_mixes(known["estimate_pp"].to_numpy(), variances, fits, here, most=most)
    slopes = {1: 1.0, **{size: fit.slope for size, fit in fits.items()}}
    between = pairs.between_models * np.array([len(each) * slopes[len(each)] ** 2 for each in mixes.members])
    table = _table(mixes, known["part"].to_list(), here).with_columns(
        low_pp=mixes.estimate - z * np.sqrt(mixes.variance),
        high_pp=mixes.estimate + z * np.sqrt(mixes.variance),
        p_harm=special.ndtr((settings.harm_threshold_pp - mixes.estimate) / np.sqrt(mixes.variance + between)),
        p_help=special.ndtr(mixes.estimate / np.sqrt(mixes.variance + between)),
    )
    proposed = table.filter(pl.col("p_harm") <= HARM_LIMIT).head(SHOWN)
    return MixRecommendation(target, models, proposed, settings, (*_verdict(proposed), *_about(fits), pairs.note))


def _measured_here(measured: pl.DataFrame, parts: list[str]) -> dict[frozenset[int], tuple[float, float]]:
    """Return delta and variance of the mixtures that were scored on the target, by the places of their parts."""
    place = {name: number for number, name in enumerate(parts)}
    rows = measured.select("parts", "delta_pp", "noise").iter_rows()
    return {frozenset(place.get(part, -1) for part in names): (delta, noise) for names, delta, noise in rows}


def _table(mixes: Mixes, parts: list[str], here: Mapping[frozenset[int], tuple[float, float]]) -> pl.DataFrame:
    columns = {
        "sources": [" + ".join(parts[place] for place in each) for each in mixes.members],
        "n_sources": [len(each) for each in mixes.members],
        "measured_pp": [here[found][0] if (found := frozenset(each)) in here else None for each in mixes.members],
        "estimate_pp": mixes.estimate,
    }
    return pl.DataFrame(columns, schema_overrides={"measured_pp": pl.Float64})


def _measured(transfer: Transfer, models: tuple[str, ...]) -> pl.DataFrame:
    """Return the mean delta over models of every mixture on every target outside it, with its parts and noise."""
    if transfer.other_kinds.is_empty():
        text = dict.fromkeys(("source", *TARGET), pl.String())
        return pl.DataFrame(
            schema={**text, "parts": pl.List(pl.String), "delta_pp": pl.Float64(), "noise": pl.Float64()}
        )
    is_measured = (pl.col("source_kind") == MIXTURE_KIND) & (pl.col("regime") != IN_MIX) & pl.col("model").is_in(models)
    parts = transfer.other_sources.select("source", parts=pl.col("source_cells").str.split(" "))
    return (
        transfer.other_kinds.filter(is_measured & pl.col("delta_pp").is_not_null())
        .group_by("source", *TARGET)
        .agg(pl.col("delta_pp").mean(), noise=(pl.col("se_pp") ** 2).mean().fill_null(0.0) / pl.len())
        .join(parts, on="source", validate="m:1")
        .sort("source", *TARGET)
    )


def _fit(measured: pl.DataFrame, estimates: pl.DataFrame, size: int) -> Additivity:
    """Fit the slope of mixtures of one size to the estimates of their parts."""
    sums = (
        measured.filter(pl.col("parts").list.len() == size)
        .explode("parts")
        .join(estimates.select("part", *TARGET, "estimate_pp"), left_on=["parts", *TARGET], right_on=["part", *TARGET])
        .group_by("source", *TARGET)
        .agg(pl.col("estimate_pp").sum(), pl.col("delta_pp").first(), n=pl.len())
        .filter(pl.col("n") == size)
        .sort("source", *TARGET)
    )
    return fit_additivity(sums["estimate_pp"].to_numpy(), sums["delta_pp"].to_numpy(), level_codes(sums, ["source"]))


def _verdict(proposed: pl.DataFrame) -> list[str]:
    if proposed.is_empty():
        return [f"no mixture and no single source has a probability of harm of at most {HARM_LIMIT:.0%}"]
    return [] if proposed["p_help"].max() > 0.5 else ["none of them is more likely to help than not"]  # type: ignore[operator]


def _about(fits: Mapping[int, Additivity]) -> list[str]:
    """Say of every size of mixture what its estimate rests on."""
    assumed = [str(size) for size, fit in fits.items() if not fit.n_mixtures]
    lines = [
        f"mixtures of {size}: {fit.slope:.2f} of the sum of their sources, fitted to {fit.n_mixtures} mixtures of this "
        f"run; error on mixtures held out {fit.error_pp:.2f} pp, {fit.added_error_pp:.2f} pp if they added up"
        for size, fit in fits.items()
        if fit.n_mixtures
    ]
    if assumed:
        lines.append(
            f"mixtures of {' and '.join(assumed)}: that their sources' deltas add up is an assumption; too few "
            "mixtures of this size were scored outside their own cells to test it"
        )
    return lines
