"""Every table of the analysis from one function, each a polars DataFrame."""

from __future__ import annotations

from collections.abc import Callable

from threadpoolctl import threadpool_limits

from transfergrid.analysis.records import Transfer
from transfergrid.analysis.statistics.bootstrap import resample_deltas
from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.tables.table import AnalysisTables, TableInputs
from transfergrid.analysis.tables.variants import with_variant
from transfergrid.analysis.transfer.remarks import remark_lines, with_remark
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

Progress = Callable[[str], object]
"""Called with the name of what is computed next: ``transfer``, ``resamples``, then every table."""


def build_tables(
    run: RunFolder, config: GridConfig | None = None, *, on_progress: Progress | None = None
) -> AnalysisTables:
    """Read a run and compute every table.

    Args:
        run: The run's folder; item rows, imports and the noise floor are read from it.
        config: Expected cells and seeds, models' traits and the analysis' settings; None: what is there, defaults.
        on_progress: Called with each table's name before it is computed.

    Raises:
        UserError: If the run has neither scores of an adapter nor an import, or its files are unusable.
    """
    report = on_progress or (lambda name: None)
    report("transfer")
    transfer = read_transfer(run, config)
    if transfer.every_row.is_empty():
        raise UserError(
            f"{str(run.root)!r} has no adapter scores and no imported table; run 'grid eval' or 'grid import' first"
        )
    return tables_from(transfer, config.analysis if config is not None else AnalysisConfig(), on_progress=report)


def tables_from(transfer: Transfer, settings: AnalysisConfig, *, on_progress: Progress | None = None) -> AnalysisTables:
    """Compute every table from transfer tables that were read before; see `build_tables`."""
    report = on_progress or (lambda name: None)
    report("resamples")
    inputs = TableInputs(transfer, settings, resample_deltas(transfer.rows, transfer.items, settings))
    frames = {}
    lines = remark_lines(transfer.rows)
    # the matrices are small from here on: more BLAS threads only wait for each other, on a busy machine for minutes
    with threadpool_limits(limits=1, user_api="blas"):
        for name, table in all_tables().items():
            report(name)
            frames[name] = with_variant(with_remark(table.make(inputs), lines), transfer.has_variants)
    return AnalysisTables(frames)
