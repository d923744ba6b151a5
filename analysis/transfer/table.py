"""The transfer table: the delta of every adapter on every target, by seed and averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from transfergrid.analysis.graded.seeds import graded_as_delta, graded_columns
from transfergrid.analysis.records import EVERY_KEY, IS_SINGLE, KEY, ItemBlock, Transfer
from transfergrid.analysis.statistics.levels import level_codes
from transfergrid.analysis.statistics.significance import (
    EXACT_MCNEMAR,
    PairedSums,
    crossed_standard_error,
    t_test_p,
)
from transfergrid.analysis.transfer.adaptive import Stopping, read_cells, read_stopping, with_decisions
from transfergrid.analysis.transfer.by_seed import no_counts, transfer_by_seed, with_q
from transfergrid.analysis.transfer.construction import construction_expr
from transfergrid.analysis.transfer.imported import transfer_from_imported
from transfergrid.analysis.transfer.languages import language_family
from transfergrid.analysis.transfer.model_traits import traits_frame
from transfergrid.analysis.transfer.pairing import merge_blocks, observe
from transfergrid.analysis.transfer.remarks import add_remarks
from transfergrid.analysis.transfer.sources import (
    read_sources,
    read_trainings,
    single_blocks,
    with_methods,
)
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import check_names, read_imported, read_noise_floor
from transfergrid.store.noise_floor import NOISE_FLOOR_SCHEMA
from transfergrid.store.scores import (
    UNREADABLE,
    check_contents,
    find_unreadable,
    scan_scores,
    score_parts,
    with_regime,
)

REDRAWN = 1.5
"""Items of all seeds together, measured in those of one seed, above which seeds count as having items of their own."""
REDRAWN_TEST = "moderated t test, items redrawn per seed"
"""Test of rows whose seeds have items of their own."""
NO_MODEL = "no adapter scores of this model in the store"


def read_transfer(run: RunFolder, config: GridConfig | None = None) -> Transfer:
    """Read a run's store and imports into the transfer tables.

    Args:
        run: The run's folder.
        config: Says which seeds and cells are expected, and the models' families and sizes; None expects what
            any adapter of the same model has.

    Raises:
        UserError: If a file is unusable, rows are there twice, or a model is both scored and imported.
    """
    settings = config.analysis if config is not None else AnalysisConfig()
    parts = score_parts(run)
    check_contents(parts)
    scores = scan_scores(parts)
    stopping = read_stopping(read_cells(run.scores))
    cells = config.grid.cells if config is not None else ()
    counts, blocks, graded_blocks = _observed(stopping.common(scores), parts, settings)
    sources = read_sources(scores, [*counts["source"], *(cell.name for cell in cells)])
    by_seed = transfer_by_seed(counts, config, read_noise_floor(run), sources)
    check_names(run.scores, by_seed)
    averaged = average_seeds(by_seed, blocks)
    if stopping.partial:
        read = partial(_tables, sources=sources, parts=parts, settings=settings)
        by_seed, averaged = stopping.with_final_tests((by_seed, averaged), scores, read)
    imported = _imported(run, by_seed)
    with_both = with_graded(averaged, by_seed, graded_blocks, settings.confidence)
    averaged = with_both.join(sources, on="source", how="left", validate="m:1")
    rows = pl.concat([averaged, transfer_from_imported(imported)], how="diagonal")
    rows = _finish(rows, imported, run, config, stopping)
    by_seed = add_remarks(by_seed, run)
    return Transfer(
        with_decisions(by_seed, stopping),
        rows.filter(IS_SINGLE),
        single_blocks(blocks, sources),
        _unscored_models(by_seed.filter(IS_SINGLE), config),
        rows.filter(~IS_SINGLE),
        with_methods(sources.filter(~IS_SINGLE), run),
        blocks,
        read_trainings(sources, run),
        single_blocks(graded_blocks, sources),
    )


def _imported(run: RunFolder, by_seed: pl.DataFrame) -> pl.DataFrame:
    imported = read_imported(run)
    if both := sorted(set(by_seed["model"]) & set(imported["model"])):
        raise UserError(
            f"model {both[0]!r} has both item scores and an imported table; analyse them in two run folders"
        )
    return imported


def with_graded(
    averaged: pl.DataFrame, by_seed: pl.DataFrame, graded: Sequence[ItemBlock], confidence: float
) -> pl.DataFrame:
    """Add graded transfer to the averages over seeds, see `graded_columns`."""
    columns = graded_columns(average_seeds(graded_as_delta(by_seed), graded), by_seed, confidence)
    return averaged.join(columns, on=list(EVERY_KEY), how="left", validate="1:1", maintain_order="left")


class _Observed(NamedTuple):
    """The paired observations of all models."""

    counts: pl.DataFrame
    blocks: tuple[ItemBlock, ...]
    graded: tuple[ItemBlock, ...]


def _observed(scores: pl.LazyFrame, parts: Sequence[Path], settings: AnalysisConfig) -> _Observed:
    try:
        found = list(observe(scores, settings))
    except UNREADABLE as error:
        fault = find_unreadable(parts)
        if fault is None:
            raise
        raise fault from error
    return _Observed(
        pl.concat([each.rows for each in found]) if found else no_counts(),
        merge_blocks([block for each in found for block in each.blocks]),
        merge_blocks([block for each in found for block in each.graded]),
    )


def _tables(
    scores: pl.LazyFrame, sources: pl.DataFrame, parts: Sequence[Path], settings: AnalysisConfig
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the transfer tables of some item rows, by seed and averaged over seeds."""
    counts, blocks, _ = _observed(scores, parts, settings)
    by_seed = transfer_by_seed(counts, None, pl.DataFrame(schema=NOISE_FLOOR_SCHEMA), sources)
    there = by_seed.filter(pl.col("delta_pp").is_not_null())
    return there, average_seeds(there, blocks)


def _unscored_models(by_seed: pl.DataFrame, config: GridConfig | None) -> tuple[str, ...]:
    if config is None or by_seed.is_empty():
        return ()
    return tuple(sorted({model.name for model in config.models} - set(by_seed["model"])))


def average_seeds(by_seed: pl.DataFrame, blocks: Sequence[ItemBlock]) -> pl.DataFrame:
    """Return one row per (model, source, target) with standard error and test, see `crossed_standard_error`."""
    there = pl.col("delta_pp").is_not_null()
    averaged = by_seed.group_by(EVERY_KEY, maintain_order=True).agg(
        primary_metric=pl.col("primary_metric").drop_nulls().first(),
        n_seeds=there.sum().cast(pl.Int64),
        n_seeds_missing=(~there).sum().cast(pl.Int64),
        n_items=pl.col("n_items").filter(there).min(),
        base_score=pl.col("base_score").mean(),
        adapter_score=pl.col("adapter_score").mean(),
        # 100 k / n is not exact in binary: seeds that cancel must be 0, and -1 must still count as harm
        delta_pp=pl.col("delta_pp").mean().round(9),
        delta_sd_seeds_pp=pl.col("delta_pp").std(),
        n_unscored=pl.col("n_unscored").max(),
        mcnemar_p=pl.col("mcnemar_p").filter(there).first(),
        squares=pl.col("squares").filter(there).sum(),
        between_seeds=((pl.col("delta_pp") - pl.col("delta_pp").mean()) / 100).pow(2).sum(),
        n_flips_noise_floor=pl.col("n_flips_noise_floor").first(),
        reason=pl.when(there.any()).then(None).otherwise(pl.col("reason").drop_nulls().sort().first()),
    )
    joined = averaged.join(_between_items(blocks), on=list(EVERY_KEY), how="left", validate="1:1")
    with_errors = _with_standard_errors(joined)
    se_origin = pl.when(pl.col("se_pp").is_not_null()).then(pl.lit("items"))
    return with_errors.with_columns(origin=pl.lit("items"), se_origin=se_origin).drop("squares", "mcnemar_p")


def _between_items(blocks: Sequence[ItemBlock]) -> pl.DataFrame:
    """Return per row the sum over items of (the item's mean over seeds - mean)^2, and the items of all seeds."""
    numbers = {"between_items": pl.Float64, "n_items_of_all_seeds": pl.Int64}
    frames = [pl.DataFrame(schema={**dict.fromkeys(EVERY_KEY, pl.String), **numbers})]
    for block in blocks:
        values = block.differences.astype(np.float64)
        n_items = block.scored.sum(axis=1)
        squares = (values**2).sum(axis=1) - values.sum(axis=1) ** 2 / np.maximum(n_items, 1)
        found = {"between_items": np.maximum(squares, 0.0), "n_items_of_all_seeds": n_items}
        frames.append(block.keys.select(EVERY_KEY).with_columns(pl.Series(name, each) for name, each in found.items()))
    return pl.concat(frames)


def _with_standard_errors(frame: pl.DataFrame) -> pl.DataFrame:
    def column(name: str) -> np.ndarray:
        return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

    mean = column("delta_pp") / 100
    sums = PairedSums(
        column("n_items"), column("n_seeds"), mean, column("between_items"), column("between_seeds"), column("squares")
    )
    redrawn = column("n_items_of_all_seeds") > REDRAWN * column("n_items")
    errors = crossed_standard_error(sums, level_codes(frame, ("model",)), redrawn)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_t = np.where(errors.se > 0, t_test_p(mean / errors.se, errors.df), np.where(errors.se == 0, 1.0, np.nan))
    exact = (column("n_seeds") < 2) & np.isfinite(column("mcnemar_p"))
    p_values = np.where(exact, column("mcnemar_p"), by_t)
    return frame.with_columns(
        se_pp=pl.Series(100 * errors.se).fill_nan(None),
        df=pl.Series(errors.df).fill_nan(None),
        p_value=pl.Series(p_values).fill_nan(None),
        p_method=pl.when(pl.Series(np.isnan(p_values)))
        .then(None)
        .when(pl.Series(exact))
        .then(pl.lit(EXACT_MCNEMAR))
        .when(pl.col("n_seeds") < 2)
        .then(pl.lit("t test over items"))
        .when(pl.Series(redrawn))
        .then(pl.lit(REDRAWN_TEST))
        .otherwise(pl.lit("moderated t test, items and seeds crossed")),
    ).drop("between_items", "between_seeds", "n_items_of_all_seeds")


def _finish(
    rows: pl.DataFrame, imported: pl.DataFrame, run: RunFolder, config: GridConfig | None, stopping: Stopping
) -> pl.DataFrame:
    sizes = dict(imported.filter(pl.col("size_b").is_not_null()).select("model", "size_b").iter_rows())
    traits = traits_frame(rows["model"].unique(), config.models if config is not None else (), sizes).drop("size_b")
    languages = sorted({*rows["source_language"].drop_nulls(), *rows["target_language"]})
    families = {language: language_family(language) for language in languages}
    frame = with_decisions(add_remarks(rows, run), stopping)
    frame = with_regime(frame.join(traits, on="model", how="left", validate="m:1")).with_columns(
        construction=construction_expr(rows, run, config),
        source_language_family=pl.col("source_language").replace_strict(families, return_dtype=pl.String),
        target_language_family=pl.col("target_language").replace_strict(families, return_dtype=pl.String),
    )
    frame = with_q(with_q(frame, "p_value", "q_value"), "graded_p", "graded_q")
    return frame.sort(*KEY, "source", nulls_last=True)
