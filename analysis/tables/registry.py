"""Every table of the analysis; a new one is added to `TABLES`.

docs/tables.md is written from here: ``python -m transfergrid.analysis.tables.registry > docs/tables.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from transfergrid.analysis.tables.consistency import CONSISTENCY, CONSISTENCY_BY_SOURCE
from transfergrid.analysis.tables.distance import DISTANCE, DISTANCE_PAIRS
from transfergrid.analysis.tables.matrices import LANGUAGE_MATRICES, MATRICES
from transfergrid.analysis.tables.mixtures import MERGES, MIXTURES
from transfergrid.analysis.tables.power import POWER
from transfergrid.analysis.tables.recommendation import RECOMMENDATIONS
from transfergrid.analysis.tables.regimes import REGIMES
from transfergrid.analysis.tables.roles import ROLES_TABLE
from transfergrid.analysis.tables.table import Table
from transfergrid.analysis.tables.transfer import MISSING, TRANSFER, TRANSFER_BY_SEED
from transfergrid.analysis.tables.variance import VARIANCE
from transfergrid.analysis.tables.variants import VARIANTS

TABLES = [
    REGIMES,
    ROLES_TABLE,
    MATRICES,
    LANGUAGE_MATRICES,
    VARIANCE,
    CONSISTENCY,
    CONSISTENCY_BY_SOURCE,
    DISTANCE,
    DISTANCE_PAIRS,
    MIXTURES,
    MERGES,
    VARIANTS,
    TRANSFER,
    TRANSFER_BY_SEED,
    MISSING,
    POWER,
    RECOMMENDATIONS,
]


def all_tables() -> dict[str, Table]:
    """Return every table by its name, in the order in which they are computed and listed."""
    return {table.name: table for table in TABLES}


_HEAD = """# The tables and their columns

`grid analyze` writes every table to `RUN/tables` as Parquet and CSV; `grid analyze NAME` shows one.
[What the numbers mean](statistics.md) says how they are computed. A number that cannot be computed is null.
Where an import came with remarks, every table has a last column `remark`. Where a run has variants, every table has
a column `variant`: that of the row's source, `main` for the main recipe.
This page is written from the code: `python -m transfergrid.analysis.tables.registry > docs/tables.md`.
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
