from pathlib import Path

import altair as alt
import polars as pl

from transfergrid.analysis.charts.rows import chart_rows
from transfergrid.analysis.report.figures import page_charts
from transfergrid.analysis.tables.build import build_tables


def test_rows_leave_nulls_out_and_round() -> None:
    table = pl.DataFrame({"name": ["a", "b"], "value": [1.23456, None]})
    assert chart_rows(table, ["name", "value"]).to_dict() == {"values": [{"name": "a", "value": 1.2346}, {"name": "b"}]}


def test_every_chart_is_valid_vega_lite(tmp_path: Path) -> None:
    from tests.analysis.report.runs import FAST, write_two_models

    tables = build_tables(write_two_models(tmp_path))
    for name, chart in page_charts(tables, FAST).items():
        alt.LayerChart.from_dict(chart, validate=True)
        assert chart["layer"], name
