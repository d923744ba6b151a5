"""The transfer table of imported aggregates."""

from __future__ import annotations

import numpy as np
import polars as pl

from transfergrid.analysis.records import KEY, SOURCE, TARGET
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.moderation import moderate
from transfergrid.analysis.statistics.significance import StandardErrors, t_test_p
from transfergrid.store.imported import SE_OF_SEEDS, SE_OF_SEEDS_AND_ITEMS
from transfergrid.store.scores import SOURCE_COLUMNS, with_sources

NO_ITEMS = "no graded transfer: the imported table has no items"
NOT_IMPORTED = "no delta in the imported table"


def _expect_imported(imported: pl.DataFrame) -> pl.DataFrame:
    """Add a row with nulls for every (model, source, target) of the imported grid that is not in the table."""
    models, sources, targets = (imported.select(names).unique() for names in (["model"], SOURCE, TARGET))
    wanted = models.join(sources, how="cross").join(targets, how="cross")
    return wanted.join(imported, on=list(KEY), how="left", validate="1:1")


def transfer_from_imported(given: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of an imported table in the transfer table's columns."""
    imported = with_sources(_expect_imported(given))
    errors = _errors_across_seeds(imported)
    delta = imported["delta_pp"].fill_null(np.nan).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = np.where((errors.se > 0) & (errors.df > 0), t_test_p(delta / errors.se, errors.df), np.nan)
    tested = pl.Series(~np.isnan(p_values))
    return imported.select(
        *KEY,
        *SOURCE_COLUMNS,
        "primary_metric",
        "n_seeds",
        "base_score",
        "adapter_score",
        "delta_pp",
        se_pp=pl.coalesce(pl.Series(errors.se).fill_nan(None), "se_pp"),
        se_origin=pl.when(pl.col("se_pp").is_not_null()).then("se_origin"),
        delta_sd_seeds_pp="delta_sd_pp",
        n_seeds_missing=pl.lit(0, dtype=pl.Int64),
        df=pl.when(tested).then(pl.Series(errors.df)),
        p_value=pl.when(tested).then(pl.Series(p_values)),
        p_method=pl.when(tested).then(pl.lit("moderated t test across seeds")),
        origin=pl.lit("imported"),
        reason=pl.when(pl.col("delta_pp").is_null()).then(pl.lit(NOT_IMPORTED)),
        graded_reason=pl.when(pl.col("delta_pp").is_null()).then(pl.lit(NOT_IMPORTED)).otherwise(pl.lit(NO_ITEMS)),
    )


def _errors_across_seeds(imported: pl.DataFrame) -> StandardErrors:
    """Return the moderated standard errors of rows whose errors are across seeds; NaN for the others."""
    across = imported["se_origin"].is_in([SE_OF_SEEDS, SE_OF_SEEDS_AND_ITEMS]).fill_null(False).to_numpy()
    se = np.where(across, imported["se_pp"].fill_null(np.nan).to_numpy(), np.nan)
    n_seeds = imported["n_seeds"].fill_null(1).to_numpy().astype(np.float64)
    models = level_codes(imported, ("model",))
    found = moderate(se**2 * n_seeds, n_seeds - 1, groups=models, scale=np.ones(len(se)))
    return StandardErrors(np.sqrt(found.variance / n_seeds), found.df)
