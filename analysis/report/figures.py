"""Figures for a paper: the transfer matrix, donor and recipient roles, regimes; as PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from transfergrid.analysis.report.matrix import colour_limit
from transfergrid.analysis.tables.build import AnalysisTables
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime
from transfergrid.store.files import write_atomically
from transfergrid.wording import level

GAIN, MIDDLE, LOSS = "#1258ad", "#f4f4f1", "#943f00"
"""The page's colours in its light scheme: a higher score, no change, a lower score."""

DOTS_PER_INCH = 300

_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "transfergrid",
}
_ROLES = (("language", Regime.MT_CL.value), ("task", Regime.CT_ML.value))
_NUMBERED_UP_TO = 12
_DEEP = 0.795  # share of the way to the full colour from which white text reads better
_CELL_INCHES, _LARGE_CELL_INCHES = 0.15, 0.45


def write_figures(tables: AnalysisTables, settings: AnalysisConfig, folder: Path, *, form: str) -> list[Path]:
    """Write ``matrix``, ``roles`` and ``regimes`` into a folder; the same tables give the same files.

    Args:
        tables: All tables of the analysis; the matrix shows the mean over models.
        settings: Level of the intervals and harm threshold, for the labels.
        folder: Created where it is not there.
        form: ``png`` or ``svg``.

    Raises:
        OSError: If a file cannot be written.
    """
    paths = []
    with mpl.rc_context(_STYLE):
        drawn = {
            "matrix": draw_matrix(tables.single_source),
            "roles": draw_roles(tables.roles, settings),
            "regimes": draw_regimes(tables.regimes, settings),
        }
        for name, figure in drawn.items():
            path = folder / f"{name}.{form}"
            write_atomically(path, partial(_save, figure, form))
            paths.append(path)
    return paths


def _save(figure: Figure, form: str, path: Path) -> None:
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    figure.savefig(path, format=form, dpi=DOTS_PER_INCH, bbox_inches="tight", metadata=metadata)


def mean_matrix(transfer: pl.DataFrame) -> tuple[list[tuple[str, str]], list[tuple[str, str]], npt.NDArray[np.float64]]:
    """Return source cells, target cells and their mean delta over models, NaN where nothing was scored."""
    mean = transfer.group_by("source_task", "source_language", "target_task", "target_language").agg(
        pl.col("delta_pp").mean()
    )
    sources, targets = (
        sorted(mean.select(f"{side}_task", f"{side}_language").unique().iter_rows()) for side in ("source", "target")
    )
    rows, columns = ({cell: place for place, cell in enumerate(cells)} for cells in (sources, targets))
    values = np.full((len(sources), len(targets)), np.nan)
    for *cells, delta in mean.iter_rows():
        values[rows[cells[0], cells[1]], columns[cells[2], cells[3]]] = np.nan if delta is None else delta
    return sources, targets, values


def draw_matrix(transfer: pl.DataFrame) -> Figure:
    """Draw the mean transfer matrix; cells that were not scored are hatched."""
    sources, targets, values = mean_matrix(transfer)
    limit = colour_limit(values[np.isfinite(values)])
    inches = _CELL_INCHES if max(values.shape) > _NUMBERED_UP_TO else _LARGE_CELL_INCHES
    figure = Figure(figsize=(1.6 + inches * len(targets), 1.0 + inches * len(sources)))
    axes = figure.add_subplot()
    colours = LinearSegmentedColormap.from_list("transfer", (LOSS, MIDDLE, GAIN))
    image = axes.imshow(values, cmap=colours, vmin=-limit, vmax=limit, interpolation="none")
    _hatch_missing(axes, values)
    if inches == _LARGE_CELL_INCHES:
        _write_numbers(axes, values, limit)
    _name_cells(axes, sources, targets)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, extend="both")
    bar.set_label("mean delta, pp")
    axes.set_xlabel("scored on")
    axes.set_ylabel("trained on")
    return figure


def _hatch_missing(axes: Any, values: npt.NDArray[np.float64]) -> None:
    for row, column in np.argwhere(np.isnan(values)):
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(
            Rectangle(corner, 1, 1, hatch="//////", facecolor="white", edgecolor="#9aa1a9", linewidth=0, clip_on=False)
        )


def _write_numbers(axes: Any, values: npt.NDArray[np.float64], limit: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > _DEEP * limit else "black"
            axes.text(column, row, _signed(value), ha="center", va="center", fontsize=6.5, color=colour)


def _signed(value: float) -> str:
    """Return one digit with a sign; what rounds to 0 has none."""
    text = f"{value:+.1f}".replace("-", "−")
    return text[1:] if text[1:] == "0.0" else text


def _name_cells(axes: Any, sources: Sequence[tuple[str, str]], targets: Sequence[tuple[str, str]]) -> None:
    axes.set_xticks(range(len(targets)), [language for _, language in targets], fontsize=6)
    axes.set_yticks(range(len(sources)), [language for _, language in sources], fontsize=6)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for cells, along_rows in ((targets, False), (sources, True)):
        tasks = [task for task, _ in cells]
        for task in dict.fromkeys(tasks):
            start, middle = tasks.index(task), tasks.index(task) + (tasks.count(task) - 1) / 2
            if along_rows:
                axes.annotate(
                    task,
                    (0, middle),
                    (-24, 0),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    rotation=90,
                    ha="center",
                    va="center",
                    fontsize=7,
                )
                axes.axhline(start - 0.5, color="white", linewidth=2.5 * (start > 0))
            else:
                axes.annotate(
                    task,
                    (middle, 1),
                    (0, 5),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    fontsize=7,
                )
                axes.axvline(start - 0.5, color="white", linewidth=2.5 * (start > 0))
    axes.yaxis.labelpad = 24


def draw_roles(roles: pl.DataFrame, settings: AnalysisConfig) -> Figure:
    """Draw donor against recipient scores of languages and tasks with their intervals."""
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    for place, (unit, regime) in enumerate(_ROLES, start=1):
        axes = figure.add_subplot(1, 2, place)
        part = roles.filter(unit=unit, regime=regime, models_by="all")
        donors, recipients = (part.filter(role=role) for role in ("donor", "recipient"))
        both = donors.join(recipients, on="name", suffix="_recipient", validate="1:1").sort("name")
        _scatter(axes, both)
        axes.set_title(f"{unit}s, {regime}, {_bars_of(both, settings)}", fontsize=8)
        axes.set_xlabel("donor score, pp")
        axes.set_ylabel("recipient score, pp")
        axes.axhline(0, color="#9aa1a9", linewidth=0.6)
        axes.axvline(0, color="#9aa1a9", linewidth=0.6)
        if both.is_empty():
            axes.text(0.5, 0.5, "no pairs", transform=axes.transAxes, ha="center")
    return figure


def _bars_of(both: pl.DataFrame, settings: AnalysisConfig) -> str:
    if both["score_pp_low"].is_not_null().any():
        return f"{level(settings.confidence)} intervals"
    return "standard errors" if both["se_pp"].is_not_null().any() else "no intervals"


def _scatter(axes: Any, both: pl.DataFrame) -> None:
    for row in both.iter_rows(named=True):
        x, y = row["score_pp"], row["score_pp_recipient"]
        axes.errorbar(
            x,
            y,
            xerr=_error(row, ""),
            yerr=_error(row, "_recipient"),
            fmt="o",
            markersize=4,
            color=GAIN,
            ecolor="#9aa1a9",
            elinewidth=0.8,
        )
        axes.annotate(row["name"], (x, y), (4, 3), textcoords="offset points", fontsize=7)


def _error(row: dict[str, Any], suffix: str) -> list[list[float]] | float | None:
    """Return distances to the interval's ends, never below 0, or the standard error."""
    score, low, high = (row[f"{name}{suffix}"] for name in ("score_pp", "score_pp_low", "score_pp_high"))
    if low is None:
        error: float | None = row[f"se_pp{suffix}"]
        return error
    return [[max(score - low, 0.0)], [max(high - score, 0.0)]]


def draw_regimes(regimes: pl.DataFrame, settings: AnalysisConfig) -> Figure:
    """Draw mean delta and harm rate of every regime with their intervals."""
    part = regimes.filter((pl.col("by") == "all") & (pl.col("n") > 0)).reverse()
    figure = Figure(figsize=(7.0, 0.7 + 0.32 * max(part.height, 1)), layout="constrained")
    names = part["regime"].to_list()
    harm, whose = (
        ("harm_rate", "seen") if part["harm_rate_true"].null_count() == part.height else ("harm_rate_true", "true")
    )
    panels = (
        ("mean_pp", 1.0, "mean delta, pp"),
        (harm, 100.0, f"harmed ({whose} delta <= {settings.harm_threshold_pp:g} pp), %"),
    )
    for place, (column, factor, name) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        values = factor * part[column].fill_null(np.nan).to_numpy()
        colours = [LOSS if value < 0 or column == harm else GAIN for value in values]
        axes.barh(range(len(names)), values, color=colours, alpha=0.8, height=0.6)
        for row, record in enumerate(part.iter_rows(named=True)):
            if record[f"{column}_low"] is not None:
                ends = [factor * record[f"{column}_low"], factor * record[f"{column}_high"]]
                axes.plot(ends, [row, row], color="black", linewidth=1, marker="|", markersize=5)
        axes.set_yticks(range(len(names)), names if place == 1 else [""] * len(names))
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_xlabel(f"{name}; {level(settings.confidence)} intervals")
    return figure
