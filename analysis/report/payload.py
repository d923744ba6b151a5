"""What the page's script draws from: the tables as plain JSON values, and that JSON as text inside a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from transfergrid.analysis.report.matrix import DIGITS, matrix_data
from transfergrid.analysis.tables.build import AnalysisTables
from transfergrid.analysis.transfer.languages import FEATURE_SETS
from transfergrid.config.settings import AnalysisConfig

_REGIMES = (
    "regime by group n n_tested mean_pp mean_pp_low mean_pp_high median_pp win_rate_true "
    "win_rate_true_low win_rate_true_high harm_rate_true harm_rate_true_low harm_rate_true_high "
    "win_rate win_rate_low win_rate_high "
    "harm_rate harm_rate_low harm_rate_high harm_rate_significant win_rate_significant harm_rate_by_chance reason"
)
_ROLES = "role unit regime name n n_models score_pp se_pp score_pp_low score_pp_high rank rank_low rank_high label"
_VARIANCE = "fit regime component n_levels variance_pp2 share share_low share_high reason"
_CONSISTENCY = "unit regime n_sources n_sources_undefined median lower_quartile upper_quartile reason"
_CORRELATION = "features method n_languages n_pairs correlation naive_p mantel_p reason"


def page_data(tables: AnalysisTables, settings: AnalysisConfig) -> dict[str, Any]:
    """Return everything the page's script draws, as JSON values.

    Args:
        tables: All tables of the analysis.
        settings: Level of the intervals, harm threshold, false discovery rate.
    """
    pairs = ["source_language", "target_language", "n", "mean_pp", *(f"{name}_distance" for name in FEATURE_SETS)]
    return {
        "settings": settings.model_dump(mode="json"),
        "matrix": matrix_data(tables.single_source, settings),
        "regimes": records(tables.regimes, _REGIMES.split()),
        "roles": records(tables.roles.filter(pl.col("models_by") == "all"), _ROLES.split()),
        "variance": records(tables.variance, _VARIANCE.split()),
        "consistency": records(tables.consistency, _CONSISTENCY.split()),
        "distance": records(tables.distance, _CORRELATION.split()),
        "distance_pairs": records(tables.distance_pairs, pairs),
    }


def records(table: pl.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Return a table's rows as dictionaries without their nulls; floats have four digits."""
    floats = [name for name in columns if table[name].dtype.is_float()]
    rows = table.select(columns).with_columns(pl.col(floats).round(DIGITS)).iter_rows(named=True)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def script_json(value: Mapping[str, Any]) -> str:
    """Return JSON that may stand inside a ``<script>`` element: no character in it can end the element.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
