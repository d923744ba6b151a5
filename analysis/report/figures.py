"""The page's charts, and figures for a paper from the same descriptions."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt

from transfergrid.analysis.charts.embed import description, draw
from transfergrid.analysis.charts.intervals import agreement_chart, regimes_chart, variance_chart
from transfergrid.analysis.charts.matrix import FEW, matrix_chart
from transfergrid.analysis.charts.matrix_data import matrix_data
from transfergrid.analysis.charts.power import power_chart
from transfergrid.analysis.charts.scatter import LANGUAGES, TASKS, distance_chart, roles_chart
from transfergrid.analysis.tables.power import power_curves
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.config.settings import AnalysisConfig
from transfergrid.store.files import write_atomically
from transfergrid.wording import level

FIGURES = ("matrix", "roles_languages", "roles_tasks", "regimes", "harm")
"""Names of the figures."""

_SECTIONS = {
    "role-chart-left": "roles",
    "role-chart-right": "roles",
    "variance-chart": "variance",
    "agreement-chart": "agreement",
    "distance-chart": "distance",
    "power-chart": "power",
}
_NARROW, _WIDE = 16, 44


def page_charts(
    tables: AnalysisTables, settings: AnalysisConfig, without: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return the descriptions of the page's charts by the element that each is drawn in, but for some sections."""
    charts = {
        "matrix-chart": _matrix(tables, settings),
        "regime-chart": regimes_chart(tables.regimes),
        "role-chart-left": roles_chart(tables.roles, level(settings.confidence)),
        "role-chart-right": roles_chart(tables.roles, level(settings.confidence), shown=TASKS),
        "variance-chart": variance_chart(tables.variance),
        "agreement-chart": agreement_chart(tables.consistency),
        "distance-chart": distance_chart(tables.distance_pairs),
        "power-chart": power_chart(power_curves(tables.single_source, tables.transfer_by_seed, settings)),
    }
    return {name: description(chart) for name, chart in charts.items() if _SECTIONS.get(name, "") not in without}


def _matrix(tables: AnalysisTables, settings: AnalysisConfig) -> alt.LayerChart:
    return matrix_chart(matrix_data(tables.single_source, settings), level(settings.confidence))


def write_figures(tables: AnalysisTables, settings: AnalysisConfig, folder: Path, *, form: str) -> list[Path]:
    """Write every figure into a folder; the same tables give the same files.

    Args:
        tables: All tables of the analysis; the matrix shows the mean over models.
        settings: Level of the intervals and harm threshold, for the labels.
        folder: Created where it is not there.
        form: One of `FORMS`.

    Raises:
        OSError: If a file cannot be written.
    """
    n_cells = tables.single_source.select("target_task", "target_language").n_unique()
    step = _NARROW if n_cells > FEW else _WIDE
    harm = "harm_rate" if tables.regimes["harm_rate_true"].null_count() == tables.regimes.height else "harm_rate_true"
    words = level(settings.confidence)
    charts = {
        "matrix": _matrix(tables, settings).properties(width=alt.Step(step)),
        "roles_languages": roles_chart(tables.roles, words, shown=LANGUAGES),
        "roles_tasks": roles_chart(tables.roles, words, shown=TASKS),
        "regimes": regimes_chart(tables.regimes),
        "harm": regimes_chart(tables.regimes, measure=harm),
    }
    paths = []
    for name in FIGURES:
        path = folder / f"{name}.{form}"
        write_atomically(path, partial(Path.write_bytes, data=draw(charts[name], form)))
        paths.append(path)
    return paths
