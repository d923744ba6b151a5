"""docs/tables.md, written from the registry: ``python -m transfergrid.analysis.tables.reference > docs/tables.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.tables.table import Table

_HEAD = """# The tables and their columns

`grid analyze` writes every table to `RUN/tables` as Parquet and CSV; `grid analyze NAME` shows one.
[What the numbers mean](statistics.md) says how they are computed. A number that cannot be computed is null.
Where an import came with remarks, every table has a last column `remark`.
This page is written from the code: `python -m transfergrid.analysis.tables.reference > docs/tables.md`.
"""


def render_tables() -> str:
    """Return the page that lists every table with its columns, their units and meanings, as Markdown."""
    return "\n".join([_HEAD, *(line for table in all_tables().values() for line in _section(table))])


def _section(table: Table) -> Iterator[str]:
    yield f"## `{table.name}`\n"
    yield f"One row: {table.row}. {' '.join(each for each in (table.estimand, table.approximate) if each)}\n"
    yield "| column | unit | meaning |\n|---|---|---|"
    for column in table.columns:
        yield f"| `{column.name}` | {column.unit} | {column.meaning} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(render_tables())
