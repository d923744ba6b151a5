"""Every table of the analysis from one function, each a polars DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import polars as pl
from threadpoolctl import threadpool_limits

from transfergrid.analysis.records import Transfer
from transfergrid.analysis.statistics.bootstrap import DrawArray, resample_deltas
from transfergrid.analysis.tables.consistency import consistency_tables
from transfergrid.analysis.tables.distance import distance_tables
from transfergrid.analysis.tables.matrices import language_matrix_table, matrix_table
from transfergrid.analysis.tables.regimes import regime_table
from transfergrid.analysis.tables.roles import role_table
from transfergrid.analysis.tables.variance import variance_table
from transfergrid.analysis.transfer.table import NO_MODEL, read_transfer
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

Progress = Callable[[str], object]
"""Called with the name of the table that is being built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisTables:
    """All tables; a number that cannot be computed is null and its row has a ``reason``."""

    regimes: pl.DataFrame
    """Per (regime, by, group): n, mean, median, win and harm rate with intervals, significance."""
    roles: pl.DataFrame
    """Per (role, unit, regime, models, name): donor or recipient score, rank, intervals, label."""
    matrices: pl.DataFrame
    """Per (unit, regime, source, target): mean delta, for languages, language families and tasks."""
    language_matrices: pl.DataFrame
    """Per (task, source, target): mean MT-CL delta of a task's language pairs."""
    variance: pl.DataFrame
    """Per (fit, regime, component): variance, share, intervals."""
    consistency: pl.DataFrame
    """Per (unit, regime): median and quartiles of the Consistency Index over sources."""
    consistency_by_source: pl.DataFrame
    """Per (unit, regime, source): the Consistency Index."""
    distance: pl.DataFrame
    """Per (features, method): correlation of distance and MT-CL delta, naive and Mantel p."""
    distance_pairs: pl.DataFrame
    """Per ordered language pair: mean MT-CL delta and distances."""
    transfer: pl.DataFrame
    """Per (model, source, target), averaged over seeds."""
    transfer_by_seed: pl.DataFrame
    """Per (model, seed, source, target) with item rows."""
    missing: pl.DataFrame
    """Rows of the two transfer tables without a delta, and why."""

    def named(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield every table with its name, in the order of the fields."""
        for each in fields(self):
            yield each.name, getattr(self, each.name)

    @property
    def single_source(self) -> pl.DataFrame:
        """The transfer table without sources of other kinds, for matrices, figures and sentences."""
        return self.transfer.filter(pl.col("source_task").is_not_null())

    def get(self, name: str) -> pl.DataFrame:
        """Return a table by its name.

        Raises:
            UserError: If there is no such table.
        """
        check_table_name(name)
        table: pl.DataFrame = getattr(self, name)
        return table


TABLE_NAMES = tuple(each.name for each in fields(AnalysisTables))
"""Names of the tables."""


def check_table_name(name: str) -> None:
    """Refuse a name that is no table's.

    Raises:
        UserError: Lists the names.
    """
    if name not in TABLE_NAMES:
        raise UserError(f"unknown table {name!r}; expected one of {list(TABLE_NAMES)}")


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
    draws = resample_deltas(transfer.rows, transfer.items, settings)
    # the matrices are small from here on: more BLAS threads only wait for each other, on a busy machine for minutes
    with threadpool_limits(limits=1, user_api="blas"):
        return _tables_from_draws(transfer, draws, settings, report)


def _tables_from_draws(
    transfer: Transfer, draws: DrawArray, settings: AnalysisConfig, report: Progress
) -> AnalysisTables:
    rows = transfer.rows
    report("regimes")
    regimes = regime_table(rows, draws, settings)
    report("roles")
    roles = role_table(rows, draws, settings)
    report("variance")
    variance = variance_table(rows, settings)
    report("consistency")
    consistency = consistency_tables(rows)
    report("distance")
    distance = distance_tables(rows, settings)
    return AnalysisTables(
        regimes=regimes,
        roles=roles,
        matrices=matrix_table(rows),
        language_matrices=language_matrix_table(rows),
        variance=variance,
        consistency=consistency.summary,
        consistency_by_source=consistency.by_source,
        distance=distance.summary,
        distance_pairs=distance.pairs,
        transfer=transfer.every_row,
        transfer_by_seed=transfer.by_seed,
        missing=missing_table(transfer),
    )


def missing_table(transfer: Transfer) -> pl.DataFrame:
    """Return the rows without a delta: of every seed, imported ones, and one for a model that is not there at all."""
    columns = ["model", "seed", "source_task", "source_language", "target_task", "target_language", "source", "reason"]
    of_seeds = transfer.by_seed.filter(pl.col("delta_pp").is_null()).select(columns)
    imported = transfer.rows.filter((pl.col("origin") == "imported") & pl.col("delta_pp").is_null())
    of_imports = imported.with_columns(seed=pl.lit(None, dtype=pl.Int64)).select(columns)
    absent = pl.DataFrame({"model": list(transfer.unscored_models)}, schema={"model": pl.String}).with_columns(
        reason=pl.lit(NO_MODEL)
    )
    return pl.concat([of_seeds, of_imports, absent], how="diagonal").select(columns).sort(columns[:-1], nulls_last=True)
