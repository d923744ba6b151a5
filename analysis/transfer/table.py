"""The transfer table: what every adapter does on every target, by seed and averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from transfergrid.analysis.statistics.significance import (
    PairedSums,
    benjamini_hochberg,
    crossed_standard_error,
    mcnemar_exact_p,
    t_test_p,
)
from transfergrid.analysis.transfer.construction import construction_expr
from transfergrid.analysis.transfer.languages import language_family
from transfergrid.analysis.transfer.model_traits import traits_frame
from transfergrid.analysis.transfer.pairing import PAIR, ROW, SOURCE, TARGET, ItemBlock, merge_blocks, observe
from transfergrid.config.settings import GridConfig
from transfergrid.grid import Regime, RunFolder, UserError
from transfergrid.store.imported import (
    SE_OF_SEEDS,
    find_unreadable,
    read_imported,
    read_noise_floor,
    scan_scores,
    score_parts,
)

KEY = ("model", *PAIR)
"""Key of one row of the transfer table."""

NO_SCORES = "no scores in the store"
NO_MODEL = "no adapter scores of this model in the store"
NOT_IMPORTED = "no delta in the imported table"
NO_BASELINE = "no baseline scores for this target"


@dataclass(frozen=True, slots=True)
class Transfer:
    """The two transfer tables and the items behind them."""

    by_seed: pl.DataFrame
    """One row per (model, seed, source, target) with item rows; missing and failed ones have a ``reason``."""
    rows: pl.DataFrame
    """One row per (model, source, target), sorted by `KEY`; null ``delta_pp`` has a ``reason``."""
    items: tuple[ItemBlock, ...]
    """Item-wise differences, one block per target task; none for imported aggregates."""
    unscored_models: tuple[str, ...] = ()
    """Models of the configuration of which the store has nothing, though it has others."""


def regime_expr() -> pl.Expr:
    """Return the regime of a row from its source and target columns."""
    task = pl.col("source_task") == pl.col("target_task")
    language = pl.col("source_language") == pl.col("target_language")
    return (
        pl.when(task & language)
        .then(pl.lit(Regime.MT_ML.value))
        .when(task)
        .then(pl.lit(Regime.MT_CL.value))
        .when(language)
        .then(pl.lit(Regime.CT_ML.value))
        .otherwise(pl.lit(Regime.CT_CL.value))
    )


def read_transfer(run: RunFolder, config: GridConfig | None = None) -> Transfer:
    """Read a run's store and imports into the transfer tables.

    Args:
        run: The run's folder.
        config: Says which seeds and cells are expected, and the models' families and sizes; None expects what
            any adapter of the same model has.

    Raises:
        UserError: If a file is unusable, rows are there twice, or a model is both scored and imported.
    """
    parts = score_parts(run)
    scores = scan_scores(parts)
    try:
        observations = list(observe(scores))
    except (pl.exceptions.PolarsError, OSError) as error:
        fault = find_unreadable(parts)
        if fault is None:
            raise
        raise fault from error
    blocks = merge_blocks([block for each in observations for block in each.blocks])
    by_seed = _by_seed([each.rows for each in observations], config, read_noise_floor(run))
    imported = read_imported(run)
    if both := sorted(set(by_seed["model"]) & set(imported["model"])):
        raise UserError(
            f"model {both[0]!r} has both item scores and an imported table; analyse them in two run folders"
        )
    rows = pl.concat([_average_seeds(by_seed, blocks), _from_imported(imported)], how="diagonal")
    unscored = _unscored_models(by_seed, config)
    return Transfer(by_seed, _finish(rows, imported, run, config), blocks, unscored)


def _unscored_models(by_seed: pl.DataFrame, config: GridConfig | None) -> tuple[str, ...]:
    if config is None or by_seed.is_empty():
        return ()
    return tuple(sorted({model.name for model in config.models} - set(by_seed["model"])))


def _by_seed(counts: list[pl.DataFrame], config: GridConfig | None, floor: pl.DataFrame) -> pl.DataFrame:
    frame = pl.concat(counts) if counts else _no_counts()
    frame = _expect(frame, config)
    n = pl.col("n_items")
    change = pl.col("n_only_adapter") - pl.col("n_only_base")
    changed = pl.col("n_only_adapter") + pl.col("n_only_base")
    usable = pl.when(n > 0)
    frame = frame.with_columns(
        regime=regime_expr(),
        n_none=n - pl.col("n_both") - changed,
        base_score=usable.then((pl.col("n_both") + pl.col("n_only_base")) / n),
        adapter_score=usable.then((pl.col("n_both") + pl.col("n_only_adapter")) / n),
        delta_acc_pp=100 * (pl.col("adapter_acc") - pl.col("base_acc")),
        delta_acc_norm_pp=100 * (pl.col("adapter_acc_norm") - pl.col("base_acc_norm")),
        delta_pp=usable.then(100 * change / n),
        se_pp=pl.when(n > 1).then(100 * ((changed - change**2 / n) / (n - 1) / n).sqrt()),
        reason=pl.when(n.is_null())
        .then(pl.lit(NO_SCORES))
        .when((n == 0) & ~pl.col("has_base"))
        .then(pl.lit(NO_BASELINE))
        .when(n == 0)
        .then(pl.concat_str(pl.lit("no item scored: "), pl.col("unscored_reason").fill_null("unknown"))),
    )
    frame = _with_mcnemar(frame).join(
        floor.select("model", *TARGET, n_flips_noise_floor="n_flips"),
        on=["model", *TARGET],
        how="left",
        validate="m:1",
    )
    return frame.select(_BY_SEED_COLUMNS).sort(ROW)


_BY_SEED_COLUMNS = (
    *ROW,
    "regime",
    "primary_metric",
    "n_items",
    "n_unscored",
    "base_score",
    "adapter_score",
    "delta_pp",
    "se_pp",
    "mcnemar_p",
    "mcnemar_q",
    "n_both",
    "n_only_base",
    "n_only_adapter",
    "n_none",
    "base_acc",
    "adapter_acc",
    "delta_acc_pp",
    "base_acc_norm",
    "adapter_acc_norm",
    "delta_acc_norm_pp",
    "n_ties",
    "n_ties_base",
    "n_flips_noise_floor",
    "unscored_reason",
    "reason",
)


def _no_counts() -> pl.DataFrame:
    text = dict.fromkeys((*KEY, "primary_metric", "unscored_reason"), pl.String)
    counts = ("n_items", "n_unscored", "n_both", "n_only_base", "n_only_adapter", "n_ties", "n_ties_base", "seed")
    scores = ("base_acc", "adapter_acc", "base_acc_norm", "adapter_acc_norm")
    return pl.DataFrame(
        schema={
            **text,
            **dict.fromkeys(counts, pl.Int64),
            **dict.fromkeys(scores, pl.Float64),
            "has_base": pl.Boolean,
        }
    )


def _expect(frame: pl.DataFrame, config: GridConfig | None) -> pl.DataFrame:
    """Add a row with nulls for every (model, seed, source, target) that should be there and is not."""
    sources, targets = frame.select(SOURCE).unique(), frame.select(TARGET).unique()
    seeds = frame.select("model", "seed").unique()
    configured = {model.name for model in config.models} if config is not None else set()
    wanted = seeds.join(sources, how="cross").join(targets, how="cross")
    if config is not None:
        cells = pl.DataFrame([(cell.task, cell.language) for cell in config.grid.cells], schema=SOURCE, orient="row")
        ours = seeds.filter(pl.col("model").is_in(configured)).select("model").unique()
        planned = (
            ours.join(pl.DataFrame({"seed": list(config.seeds)}), how="cross")
            .join(cells, how="cross")
            .join(cells.rename(dict(zip(SOURCE, TARGET, strict=True))), how="cross")
        )
        wanted = pl.concat([wanted.filter(~pl.col("model").is_in(configured)), planned])
    return wanted.join(frame, on=ROW, how="full", coalesce=True, nulls_equal=True)


def _with_mcnemar(frame: pl.DataFrame) -> pl.DataFrame:
    usable = (frame["n_items"].fill_null(0) > 0).to_numpy()
    p_values = np.full(frame.height, np.nan)
    counts = frame.filter(pl.Series(usable))
    p_values[usable] = mcnemar_exact_p(counts["n_only_base"].to_numpy(), counts["n_only_adapter"].to_numpy())
    return _with_q(frame.with_columns(mcnemar_p=pl.Series(p_values)), "mcnemar_p", "mcnemar_q")


def _with_q(frame: pl.DataFrame, p_column: str, q_column: str) -> pl.DataFrame:
    """Add Benjamini-Hochberg q within every regime; null where there is no p."""
    p_values = frame[p_column].fill_null(np.nan).to_numpy()
    regimes = frame["regime"].to_numpy()
    q_values = np.full(frame.height, np.nan)
    for regime in Regime:
        inside = regimes == regime.value
        q_values[inside] = benjamini_hochberg(p_values[inside])
    return frame.with_columns(
        pl.col(p_column).fill_nan(None), pl.Series(q_column, q_values, dtype=pl.Float64).fill_nan(None)
    )


def _average_seeds(by_seed: pl.DataFrame, blocks: Sequence[ItemBlock]) -> pl.DataFrame:
    there = pl.col("delta_pp").is_not_null()
    averaged = by_seed.group_by(KEY, maintain_order=True).agg(
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
        squares=(pl.col("n_only_base") + pl.col("n_only_adapter")).filter(there).sum(),
        between_seeds=((pl.col("delta_pp") - pl.col("delta_pp").mean()) / 100).pow(2).sum(),
        n_flips_noise_floor=pl.col("n_flips_noise_floor").first(),
        reason=pl.when(there.any()).then(None).otherwise(pl.col("reason").drop_nulls().sort().first()),
    )
    joined = averaged.join(_between_items(blocks), on=list(KEY), how="left", validate="1:1")
    with_errors = _with_standard_errors(joined)
    se_origin = pl.when(pl.col("se_pp").is_not_null()).then(pl.lit("items"))
    return with_errors.with_columns(origin=pl.lit("items"), se_origin=se_origin).drop("squares", "mcnemar_p")


def _between_items(blocks: Sequence[ItemBlock]) -> pl.DataFrame:
    """Return per row the sum over items of (the item's mean over seeds - mean)^2."""
    frames = [pl.DataFrame(schema={**dict.fromkeys(KEY, pl.String), "between_items": pl.Float64})]
    for block in blocks:
        values = block.differences.astype(np.float64)
        n_items = np.maximum(block.scored.sum(axis=1), 1)
        squares = (values**2).sum(axis=1) - values.sum(axis=1) ** 2 / n_items
        frames.append(block.keys.with_columns(between_items=pl.Series(np.maximum(squares, 0.0))))
    return pl.concat(frames)


def _with_standard_errors(frame: pl.DataFrame) -> pl.DataFrame:
    def column(name: str) -> np.ndarray:
        return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

    mean = column("delta_pp") / 100
    sums = PairedSums(
        column("n_items"), column("n_seeds"), mean, column("between_items"), column("between_seeds"), column("squares")
    )
    errors = crossed_standard_error(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_t = np.where(errors.se > 0, t_test_p(mean / errors.se, errors.df), np.where(errors.se == 0, 1.0, np.nan))
    single = column("n_seeds") < 2
    p_values = np.where(single, column("mcnemar_p"), by_t)
    return frame.with_columns(
        se_pp=pl.Series(100 * errors.se).fill_nan(None),
        df=pl.Series(errors.df).fill_nan(None),
        p_value=pl.Series(p_values).fill_nan(None),
        p_method=pl.when(pl.Series(np.isnan(p_values)))
        .then(None)
        .when(pl.Series(single))
        .then(pl.lit("exact McNemar"))
        .otherwise(pl.lit("t test, items and seeds crossed")),
    ).drop("between_items", "between_seeds")


def _expect_imported(imported: pl.DataFrame) -> pl.DataFrame:
    """Add a row with nulls for every (model, source, target) of the imported grid that is not in the table."""
    models, sources, targets = (imported.select(names).unique() for names in (["model"], SOURCE, TARGET))
    wanted = models.join(sources, how="cross").join(targets, how="cross")
    return wanted.join(imported, on=list(KEY), how="left", validate="1:1")


def _from_imported(given: pl.DataFrame) -> pl.DataFrame:
    imported = _expect_imported(given)
    delta = imported["delta_pp"].fill_null(np.nan).to_numpy()
    se = imported["se_pp"].fill_null(np.nan).to_numpy()
    df = imported["n_seeds"].fill_null(1).to_numpy() - 1.0
    from_seeds = (imported["se_origin"] == SE_OF_SEEDS).fill_null(False).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = np.where(from_seeds & (se > 0) & (df > 0), t_test_p(delta / se, df), np.nan)
    tested = pl.Series(~np.isnan(p_values))
    return imported.select(
        *KEY,
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


_COLUMNS = (
    *KEY,
    "regime",
    "family",
    "size",
    "construction",
    "source_language_family",
    "target_language_family",
    "primary_metric",
    "origin",
    "n_seeds",
    "n_seeds_missing",
    "n_items",
    "n_unscored",
    "base_score",
    "adapter_score",
    "delta_pp",
    "delta_sd_seeds_pp",
    "se_pp",
    "se_origin",
    "df",
    "p_value",
    "q_value",
    "p_method",
    "n_flips_noise_floor",
    "reason",
)


def _finish(rows: pl.DataFrame, imported: pl.DataFrame, run: RunFolder, config: GridConfig | None) -> pl.DataFrame:
    traits = _traits(rows, imported, config)
    languages = sorted({*rows["source_language"], *rows["target_language"]})
    families = {language: language_family(language) for language in languages}
    frame = rows.join(traits, on="model", how="left", validate="m:1").with_columns(
        regime=regime_expr(),
        construction=construction_expr(rows, run, config),
        source_language_family=pl.col("source_language").replace_strict(families, return_dtype=pl.String),
        target_language_family=pl.col("target_language").replace_strict(families, return_dtype=pl.String),
    )
    return _with_q(frame, "p_value", "q_value").select(_COLUMNS).sort(KEY)


def _traits(rows: pl.DataFrame, imported: pl.DataFrame, config: GridConfig | None) -> pl.DataFrame:
    sizes = dict(imported.filter(pl.col("size_b").is_not_null()).select("model", "size_b").iter_rows())
    configured = config.models if config is not None else ()
    return traits_frame(rows["model"].unique(), configured, sizes).select("model", "family", "size")
