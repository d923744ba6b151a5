import polars as pl

from transfergrid.analysis.charts.rows import chart_rows


def test_rows_leave_nulls_out_and_round() -> None:
    table = pl.DataFrame({"name": ["a", "b"], "value": [1.23456, None]})
    assert chart_rows(table, ["name", "value"]).to_dict() == {"values": [{"name": "a", "value": 1.2346}, {"name": "b"}]}
