"""The transfer table of imported aggregates."""

from __future__ import annotations

import numpy as np
import polars as pl

from transfergrid.analysis.records import KEY, SOURCE, TARGET
from transfergrid.analysis.statistics.significance import t_test_p
from transfergrid.store.imported import SE_OF_SEEDS
from transfergrid.store.scores import SOURCE_COLUMNS, with_sources

NOT_IMPORTED = "no delta in the imported table"


def _expect_imported(imported: pl.DataFrame) -> pl.DataFrame:
    """Add a row with nulls for every (model, source, target) of the imported grid that is not in the table."""
    models, sources, targets = (imported.select(names).unique() for names in (["model"], SOURCE, TARGET))
    wanted = models.join(sources, how="cross").join(targets, how="cross")
    return wanted.join(imported, on=list(KEY), how="left", validate="1:1")


def transfer_from_imported(given: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of an imported table in the transfer table's columns."""
    imported = with_sources(_expect_imported(given))
    delta = imported["delta_pp"].fill_null(np.nan).to_numpy()
    se = imported["se_pp"].fill_null(np.nan).to_numpy()
    df = imported["n_seeds"].fill_null(1).to_numpy() - 1.0
    from_seeds = (imported["se_origin"] == SE_OF_SEEDS).fill_null(False).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = np.where(from_seeds & (se > 0) & (df > 0), t_test_p(delta / se, df), np.nan)
    tested = pl.Series(~np.isnan(p_values))
    return imported.select(
        *KEY,
        *SOURCE_COLUMNS,
        "primary_metric",
        "n_seeds",
        "base_score",
        "adapter_score",
        "delta_pp",
        "se_pp",
        se_origin=pl.when(pl.col("se_pp").is_not_null()).then("se_origin"),
        delta_sd_seeds_pp="delta_sd_pp",
        n_seeds_missing=pl.lit(0, dtype=pl.Int64),
        df=pl.when(tested).then(pl.Series(df)),
        p_value=pl.when(tested).then(pl.Series(p_values)),
        p_method=pl.when(tested).then(pl.lit("t test across seeds")),
        origin=pl.lit("imported"),
        reason=pl.when(pl.col("delta_pp").is_null()).then(pl.lit(NOT_IMPORTED)),
    )
