"""Small made-up runs: item rows of a store, and transfer tables with known components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.transfer.languages import language_family
from transfergrid.analysis.transfer.model_traits import traits_frame
from transfergrid.grid import Cell
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import ADDED_COLUMNS, SCORE_SCHEMA, complete_rows, with_regime, write_named

TASKS = ("arc_challenge", "global_mmlu")
LANGUAGES = ("de", "en", "fr")
USUAL_TABLES = all_tables().keys() - {"variants"}
"""Tables that every run has; that of variants is written where a run has some."""
MODELS = ("Llama-3.2-1B-Instruct", "Qwen2.5-7B-Instruct")
SEEDS = (17, 42)


def cells(tasks: Sequence[str] = TASKS, languages: Sequence[str] = LANGUAGES) -> list[Cell]:
    return [Cell(task, language) for task in tasks for language in languages]


def item_row(
    model: str, seed: int | None, source: Cell | None, target: Cell, item: int, pred: int
) -> dict[str, object]:
    """One scored item with gold 0 and three choices; pred 0 is right."""
    values = [-9.0, -9.0, -9.0]
    values[pred] = -3.0
    return {
        "model": model,
        "seed": seed,
        "source_task": source.task if source else None,
        "source_language": source.language if source else None,
        "target_task": target.task,
        "target_language": target.language,
        "item_id": f"q{item:03d}",
        "gold": 0,
        "pred": pred,
        "pred_norm": pred,
        "loglikelihoods_nats": values,
        "choice_chars": [5, 5, 5],
        "n_truncated_tokens": 0,
        "primary_metric": "acc_norm" if target.task == "arc_challenge" else "acc",
        "unscored_reason": None,
        "run_key": f"{model} {seed} {source}",
    }


def item_rows(
    models: Sequence[str] = MODELS,
    seeds: Sequence[int] = SEEDS,
    tasks: Sequence[str] = TASKS,
    languages: Sequence[str] = LANGUAGES,
    n_items: int = 12,
) -> pl.DataFrame:
    """Item rows of a whole grid; which answers are right is random but fixed."""
    generator = np.random.default_rng(3)
    rows = []
    grid = cells(tasks, languages)
    for model in models:
        for seed, source in [(None, None), *((seed, cell) for seed in seeds for cell in grid)]:
            for target in grid:
                preds = (generator.random(n_items) < 0.45).astype(int)
                rows += [item_row(model, seed, source, target, item, int(pred)) for item, pred in enumerate(preds)]
    return item_frame(rows)


def item_frame(rows: Sequence[dict[str, object]]) -> pl.DataFrame:
    """Rows with the columns that follow from the others."""
    given = {name: dtype for name, dtype in SCORE_SCHEMA.items() if name not in ADDED_COLUMNS}
    return complete_rows(pl.DataFrame(rows, schema=given)).select(SCORE_SCHEMA.names())


def write_run(root: Path, rows: pl.DataFrame) -> RunFolder:
    run = RunFolder(root)
    run.scores.mkdir(parents=True)
    write_named(run.scores, "part", rows)
    return run


def transfer_rows(
    models: Sequence[str],
    grid: Sequence[Cell],
    deltas: np.ndarray | None = None,
    *,
    se_pp: float | None = 1.0,
    n_items: int | None = None,
) -> pl.DataFrame:
    """A transfer table of all (model, source, target), deltas in pp of shape [models, sources, targets]."""
    keys = [
        (model, source.task, source.language, target.task, target.language)
        for model in models
        for source in grid
        for target in grid
    ]
    values = np.zeros(len(keys)) if deltas is None else np.asarray(deltas, dtype=float).ravel()
    frame = pl.DataFrame(
        keys,
        schema=["model", "source_task", "source_language", "target_task", "target_language"],
        orient="row",
    ).with_columns(delta_pp=pl.Series(values))
    families = {language: language_family(language) for language in {cell.language for cell in grid}}
    return with_regime(frame.join(traits_frame(models).drop("size_b"), on="model")).with_columns(
        construction=pl.lit("machine-translated"),
        source_language_family=pl.col("source_language").replace_strict(families),
        target_language_family=pl.col("target_language").replace_strict(families),
        se_pp=pl.lit(se_pp, dtype=pl.Float64),
        se_origin=pl.lit(None if se_pp is None else "items", dtype=pl.String),
        df=pl.lit(None if se_pp is None else 399.0, dtype=pl.Float64),
        p_value=pl.lit(None, dtype=pl.Float64),
        p_method=pl.lit(None, dtype=pl.String),
        q_value=pl.lit(None, dtype=pl.Float64),
        **{
            name: pl.lit(None, dtype=pl.Float64)
            for name in (
                *("graded_pp", "graded_se_pp", "graded_q", "graded_pp_low", "graded_pp_high"),
                *("register_nats_per_char", "others_nats_per_char"),
            )
        },
        graded_reason=pl.lit(None, dtype=pl.String),
        n_items=pl.lit(n_items, dtype=pl.Int64),
        n_seeds=pl.lit(1, dtype=pl.Int64),
        n_flips_noise_floor=pl.lit(None, dtype=pl.Int64),
        origin=pl.lit("imported"),
        reason=pl.lit(None, dtype=pl.String),
    )


def published_table(models: Sequence[str], grid: Sequence[Cell], deltas: np.ndarray) -> pl.DataFrame:
    """The same in the columns of the study's release; the plain columns differ from the norm ones by 10 pp."""
    rows = transfer_rows(models, grid, deltas)
    base, delta = pl.lit(0.4), pl.col("delta_pp")
    return rows.select(
        model_name="model",
        model_size=pl.lit(1.0),
        fine_tuned_dataset="source_task",
        fine_tuned_language="source_language",
        eval_dataset="target_task",
        eval_language="target_language",
        regime="regime",
        score_mean=base + (delta + 10) / 100,
        score_base_mean=base,
        score_norm_mean=base + delta / 100,
        score_norm_base_mean=base,
        delta_score_mean=delta + 10,
        delta_score_std=pl.lit(1.0),
        delta_score_norm_mean=delta,
        delta_score_norm_std=pl.lit(0.5),
        n_seeds=pl.lit(3),
        delta_score_se=pl.lit(1.0 / 3**0.5),
        delta_score_norm_se=pl.lit(0.5 / 3**0.5),
    )
