"""Every table of the analysis; a new one is added to `TABLES`."""

from __future__ import annotations

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
    TRANSFER,
    TRANSFER_BY_SEED,
    MISSING,
    POWER,
    RECOMMENDATIONS,
]


def all_tables() -> dict[str, Table]:
    """Return every table by its name, in the order in which they are computed and listed."""
    return {table.name: table for table in TABLES}
