"""Which source cells help a target, by a shrunken estimate with its interval and its risk.

The deltas of all (source, target) pairs, averaged over the chosen models, follow
``delta = regime mean + source + target + pair + noise``. Source, target and the rest are random (REML, crossed); the
noise of a pair is measured (spread over models, or standard errors of the chosen model), what is left of the
rest is the pair's own effect. The estimate of a pair is its conditional mean: the observed delta drawn towards
what its source and target do elsewhere, the more the noisier it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from rich import box
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from scipy import linalg, special

from transfergrid.analysis.regimes import ALL_TRANSFER, in_regime
from transfergrid.analysis.reml import FitError, RemlFit, fit_reml
from transfergrid.analysis.resampling import level_codes
from transfergrid.analysis.transfer import Transfer, read_transfer
from transfergrid.config import AnalysisConfig, GridConfig
from transfergrid.grid import Cell, Regime, RunFolder, UserError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

HIGH_HARM = 0.5
"""``--avoid`` lists sources whose probability of harm is above this."""

MATCHED = "the target's own cell: its delta as measured, not part of the model"
NO_DATA = "no data: this source was not scored on the target"

_SCHEMA = {
    "source_task": pl.String,
    "source_language": pl.String,
    "regime": pl.String,
    "estimate_pp": pl.Float64,
    "low_pp": pl.Float64,
    "high_pp": pl.Float64,
    "p_harm": pl.Float64,
    "p_help": pl.Float64,
    "observed_pp": pl.Float64,
    "n_models": pl.Int64,
    "reason": pl.String,
}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Sources for one target, best first (worst first when they are to be avoided)."""

    target: Cell
    models: tuple[str, ...]
    table: pl.DataFrame
    """One row per source cell: estimate, interval, probabilities of harm and help, observed mean, reason."""
    avoid: bool
    settings: AnalysisConfig
    note: str
    """How the noise was measured and what the probabilities are about."""

    def __rich__(self) -> RenderableType:
        """Show the first rows and what the columns mean."""
        return _render(self)

    def to_json(self) -> str:
        """Return all rows as a JSON list of objects."""
        return self.table.write_json()

    def to_csv(self) -> str:
        """Return all rows as CSV."""
        return self.table.write_csv()


class _Pairs(NamedTuple):
    frame: pl.DataFrame
    """One row per (source, target) with ``mean_pp``, ``noise_var`` (NaN: not known), ``n_models``."""
    between_models: float
    """Variance of a pair's true delta between models."""
    note: str


def recommend(
    run: RunFolder,
    config: GridConfig | None = None,
    *,
    target: Cell,
    model: str | None = None,
    avoid: bool = False,
) -> Recommendation:
    """Rank source cells for a target.

    Args:
        run: The run's folder.
        config: Settings of the analysis and the models' traits.
        target: The cell to find sources for.
        model: Use this model only; None: all models, and the probabilities are about a model like them.
        avoid: List the sources that probably harm, worst first.

    Raises:
        UserError: If the run has no transfer row, or the target or model is not in it.
    """
    settings = config.analysis if config is not None else AnalysisConfig()
    return recommend_from(read_transfer(run, config), settings, target=target, model=model, avoid=avoid)


def recommend_from(
    transfer: Transfer, settings: AnalysisConfig, *, target: Cell, model: str | None = None, avoid: bool = False
) -> Recommendation:
    """Rank source cells for a target from a transfer table; see `recommend`."""
    rows = _choose(transfer.rows, target, model)
    there = rows.filter(pl.col("delta_pp").is_not_null())
    models = tuple(there["model"].unique().sort())
    pairs = _pairs(there.filter(in_regime(ALL_TRANSFER)))
    estimates = _estimates(pairs, target, settings)
    table = _with_everything_else(estimates, rows, target)
    if avoid:
        table = table.filter(pl.col("p_harm") > HIGH_HARM).sort("p_harm", "estimate_pp", descending=[True, False])
    return Recommendation(target, models, table, avoid, settings, pairs.note)


def _choose(rows: pl.DataFrame, target: Cell, model: str | None) -> pl.DataFrame:
    if rows.is_empty():
        raise UserError("the run has no scores and no imported table; run 'grid eval' or 'grid import' first")
    models = rows["model"].unique().sort().to_list()
    if model is not None and model not in models:
        raise UserError(f"model {model!r} is not in the run; expected one of {models}")
    chosen = rows if model is None else rows.filter(pl.col("model") == model)
    at_target = (pl.col("target_task") == target.task) & (pl.col("target_language") == target.language)
    if not chosen.filter(at_target & pl.col("delta_pp").is_not_null()).height:
        cells = chosen.select(pl.concat_str("target_task", "target_language", separator="-").unique().sort())
        raise UserError(f"no data for target {target.name!r}; expected one of {cells.to_series().to_list()}")
    return chosen


def _pairs(rows: pl.DataFrame) -> _Pairs:
    keys = ["source_task", "source_language", "target_task", "target_language", "regime"]
    frame = (
        rows.group_by(keys, maintain_order=True)
        .agg(
            mean_pp=pl.col("delta_pp").mean(),
            spread=pl.col("delta_pp").var(),
            error=(pl.col("se_pp") ** 2).mean(),
            n_models=pl.len().cast(pl.Int64),
        )
        .sort(keys)
    )
    if rows["model"].n_unique() > 1:
        return _over_models(frame)
    known = frame["error"].is_not_null().all() and frame.height > 0
    note = (
        "noise of a pair: standard errors of this model's deltas"
        if known
        else ("the table has no standard errors: all of a pair's own deviation counts as noise")
    )
    return _Pairs(frame.with_columns(noise_var=pl.col("error").fill_null(np.nan)), 0.0, note)


def _over_models(frame: pl.DataFrame) -> _Pairs:
    spread = frame.filter(pl.col("spread").is_not_null())
    pooled = float(np.average(spread["spread"], weights=spread["n_models"] - 1)) if spread.height else float("nan")
    errors = frame["error"].drop_nulls()
    measured = float(errors.mean()) if len(errors) else 0.0  # type: ignore[arg-type]
    between = max(pooled - measured, 0.0) if np.isfinite(pooled) else 0.0
    note = (
        "noise of a pair: spread over models; intervals are about the mean of these models, "
        "probabilities about one more model like them"
    )
    return _Pairs(frame.with_columns(noise_var=pooled / pl.col("n_models")), between, note)


def _estimates(pairs: _Pairs, target: Cell, settings: AnalysisConfig) -> pl.DataFrame:
    frame = pairs.frame
    at_target = ((frame["target_task"] == target.task) & (frame["target_language"] == target.language)).to_numpy()
    observed = frame["mean_pp"].to_numpy()
    noise = frame["noise_var"].to_numpy()
    try:
        mean, variance = shrink(frame, observed, noise)
        reason = None
    except FitError as error:
        mean, variance = observed, noise
        reason = f"not shrunken: {error}"
    spread = np.sqrt(variance + pairs.between_models)
    z = float(special.ndtri(1 - (1 - settings.confidence) / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        p_harm = special.ndtr((settings.harm_threshold_pp - mean) / spread)
        p_help = special.ndtr(mean / spread)
    unknown = "no interval: the table has no standard errors"
    return (
        frame.select("source_task", "source_language", "regime", "n_models", observed_pp="mean_pp")
        .with_columns(
            estimate_pp=pl.Series(mean),
            low_pp=pl.Series(mean - z * np.sqrt(variance)).fill_nan(None),
            high_pp=pl.Series(mean + z * np.sqrt(variance)).fill_nan(None),
            p_harm=pl.Series(p_harm).fill_nan(None),
            p_help=pl.Series(p_help).fill_nan(None),
            reason=pl.when(pl.Series(np.isnan(variance))).then(pl.lit(reason or unknown)).otherwise(pl.lit(reason)),
        )
        .filter(pl.Series(at_target))
    )


def shrink(frame: pl.DataFrame, observed: FloatArray, noise: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return conditional mean and variance of every pair's true delta, shape [N] each.

    Args:
        frame: N pairs with source, target and regime columns.
        observed: Shape [N], pp.
        noise: Shape [N], variance of the observed deltas around the true ones, pp^2; NaN: not known, then the
            pair's own deviation counts as noise altogether.

    Raises:
        FitError: If the mixed model cannot be fitted.
    """
    codes = {
        "source": level_codes(frame, ("source_task", "source_language")),
        "target": level_codes(frame, ("target_task", "target_language")),
    }
    fixed = _regime_columns(frame)
    fit = fit_reml(observed, codes, fixed=fixed)
    fitted, fitted_var = _predict(fit, observed, fixed, list(codes.values()))
    rest = float(fit.variances[-1])
    noise = np.where(np.isnan(noise), rest, noise)
    pair_var = max(rest - float(noise.mean()), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.where(pair_var + noise > 0, pair_var / (pair_var + noise), 0.0)
    mean = (1 - own) * fitted + own * observed
    variance = (1 - own) ** 2 * fitted_var + own * noise
    return mean, variance


def _regime_columns(frame: pl.DataFrame) -> FloatArray:
    """Shape [N, p]: an intercept, and indicators of the regimes after the first that occurs."""
    regimes = [regime.value for regime in Regime if (frame["regime"] == regime.value).any()]
    columns = [np.ones(frame.height), *((frame["regime"] == name).to_numpy().astype(float) for name in regimes[1:])]
    return np.stack(columns, axis=1)


def _predict(fit: RemlFit, y: FloatArray, fixed: FloatArray, codes: list[IntArray]) -> tuple[FloatArray, FloatArray]:
    """Return fixed + random parts per row and their prediction variance (Henderson's mixed model equations)."""
    members = [np.eye(int(each.max()) + 1)[each] for each, var in zip(codes, fit.variances, strict=False) if var > 0]
    penalties = [
        np.full(int(each.max()) + 1, fit.variances[-1] / var)
        for each, var in zip(codes, fit.variances, strict=False)
        if var > 0
    ]
    design = np.concatenate([fixed, *members], axis=1)
    penalty = np.concatenate([np.zeros(fixed.shape[1]), *penalties])
    factor = linalg.cho_factor(design.T @ design + np.diag(penalty))
    fitted = design @ linalg.cho_solve(factor, design.T @ y)
    covariance = fit.variances[-1] * linalg.cho_solve(factor, design.T)
    return fitted, np.einsum("nq,qn->n", design, covariance)


def _with_everything_else(estimates: pl.DataFrame, rows: pl.DataFrame, target: Cell) -> pl.DataFrame:
    """Add the matched cell and the sources without data, then sort best first."""
    sources = rows.select("source_task", "source_language").unique()
    at_target = (pl.col("target_task") == target.task) & (pl.col("target_language") == target.language)
    own = (
        rows.filter(at_target & (pl.col("regime") == Regime.MT_ML.value) & pl.col("delta_pp").is_not_null())
        .group_by("source_task", "source_language", "regime", maintain_order=True)
        .agg(observed_pp=pl.col("delta_pp").mean(), n_models=pl.len().cast(pl.Int64))
        .with_columns(reason=pl.lit(MATCHED))
    )
    found = pl.concat([estimates, own], how="diagonal")
    missing = sources.join(found, on=["source_task", "source_language"], how="anti").with_columns(
        reason=pl.lit(NO_DATA), n_models=pl.lit(0, dtype=pl.Int64)
    )
    everything = pl.concat([pl.DataFrame(schema=_SCHEMA), found, missing], how="diagonal_relaxed")
    return everything.select(list(_SCHEMA)).sort(
        "estimate_pp", "source_task", "source_language", descending=[True, False, False], nulls_last=True
    )


def _render(found: Recommendation, n_rows: int = 12) -> RenderableType:
    verb = "avoid" if found.avoid else "use"
    whose = found.models[0] if len(found.models) == 1 else f"{len(found.models)} models"
    title = f"Sources to {verb} for {found.target.name} ({whose})"
    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    level = f"{found.settings.confidence:.0%}"
    for name in ("source", "regime", "estimate", f"{level} interval", "P(harm)", "P(help)", "observed"):
        table.add_column(name, justify="left" if name in ("source", "regime") else "right", no_wrap=True)
    for row in found.table.head(n_rows).iter_rows(named=True):
        table.add_row(*_cells(row))
    notes = [
        found.note,
        f"in pp; harm: delta <= {found.settings.harm_threshold_pp:g} pp; "
        "estimates are drawn towards what source and target do elsewhere",
    ]
    if found.table.height > n_rows:
        notes.append(f"{found.table.height - n_rows} more rows: --json or --csv")
    if found.table.is_empty():
        notes.append(f"no source has a probability of harm above {HIGH_HARM:.0%}")
    reasons = found.table.head(n_rows)["reason"].drop_nulls().unique().sort().to_list()
    return RichGroup(table, Text("\n".join([*notes, *reasons])))


def _cells(row: dict[str, object]) -> list[str]:
    def number(name: str, pattern: str = "+.2f") -> str:
        value = row[name]
        return "-" if value is None else f"{value:{pattern}}"

    interval = "-" if row["low_pp"] is None else f"{row['low_pp']:+.2f} .. {row['high_pp']:+.2f}"
    return [
        f"{row['source_task']}-{row['source_language']}",
        str(row["regime"] or "-"),
        number("estimate_pp"),
        interval,
        number("p_harm", ".0%"),
        number("p_help", ".0%"),
        number("observed_pp"),
    ]
