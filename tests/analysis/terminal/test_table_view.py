import io
import re

import pytest
from rich.console import Console

from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.tables.build import tables_from
from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.analysis.terminal.table_view import TableView
from transfergrid.config.settings import AnalysisConfig

MODEL = "a-model-with-a-name-of-41-characters-inst"


@pytest.fixture(scope="module")
def tables() -> AnalysisTables:
    rows = transfer_rows(
        (MODELS[0], MODEL), cells(("arc_challenge", "a_task_with_a_long_name_of_32_ch"), ("de", "zh_hant"))
    )
    by_seed = transfer_rows((MODELS[0], MODEL), cells()).clear()
    import polars as pl

    by_seed = by_seed.with_columns(seed=pl.lit(17, dtype=pl.Int64))
    return tables_from(Transfer(by_seed, rows, ()), AnalysisConfig(bootstrap_resamples=100, permutations=99))


def shown(name: str, tables: AnalysisTables, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(TableView(name, tables[name]))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("name", [name for name in all_tables() if not name.startswith("transfer_by")])
def test_every_table_fits_80_columns_with_a_line_for_every_row(name: str, tables: AnalysisTables) -> None:
    lines = shown(name, tables)
    assert max(map(len, lines)) <= 80
    start = next(number for number, line in enumerate(lines) if line.startswith("─"))
    body = lines[start + 1 :][: min(tables[name].height, 40)]
    assert all(line.strip() for line in body)
    assert not [line for line in lines if re.search(r"(^|\s)[-+]?\d[\d.]*…", line)], "a number is cut"


def test_several_models_stand_between_the_rows_and_a_long_name_loses_its_middle(tables: AnalysisTables) -> None:
    lines = shown("transfer", tables)
    assert MODELS[0] in [line.strip() for line in lines]
    assert any("a_task_wi" in line and "…" in line and "zh_hant" in line for line in lines)
    assert any("a_task_with_a_long_name_of_32_ch-zh_hant" in line for line in shown("transfer", tables, width=200))
