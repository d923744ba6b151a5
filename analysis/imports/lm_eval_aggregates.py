"""Deltas of the harness' aggregated scores: adapter against baseline, averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from transfergrid.analysis.imports.lm_eval_results import Result
from transfergrid.analysis.records import KEY
from transfergrid.grid import UserError
from transfergrid.store.imported import IMPORTED_SCHEMA, SE_OF_SEEDS


def aggregates(results: Sequence[Result]) -> pl.DataFrame:
    """Return the deltas of some results in IMPORTED_SCHEMA, averaged over seeds.

    Raises:
        UserError: If a baseline is missing, was over another number of items, or there are no adapters.
    """
    baselines = {(each.model, each.target.name): each for each in results if each.source.is_base}
    records = []
    for result in results:
        if result.source.cell is None:
            continue
        base = baselines.get((result.model, result.target.name))
        if base is None:
            raise UserError(
                f"model {result.model!r} has no baseline on {result.target.name!r}; run lm-evaluation-harness "
                "without the adapter on the same tasks and put its results in the same folder, both with the same "
                "name of the base model"
            )
        _check_counts(result, base)
        records.append(_delta_record(result, base))
    if not records:
        raise UserError("the results are of base models only; expected runs with 'peft=...' or 'lora_local_path=...'")
    return _average_seeds(pl.DataFrame(records))


def _check_counts(result: Result, base: Result) -> None:
    if None not in (result.n_items, base.n_items) and result.n_items != base.n_items:
        raise UserError(
            f"source {result.source.name!r} of model {result.model!r} has {result.n_items} items of target "
            f"{result.target.name!r} and its baseline {base.n_items}; score both with the same --limit, or log samples "
            "so that only items of both are compared"
        )


def _delta_record(result: Result, base: Result) -> dict[str, object]:
    assert result.source.cell is not None
    known = result.stderr is not None and base.stderr is not None
    return {
        "model": result.model,
        "source_task": result.source.cell.task,
        "source_language": result.source.cell.language,
        "target_task": result.target.task,
        "target_language": result.target.language,
        "base_score": base.score,
        "adapter_score": result.score,
        # 0.14 - 0.15 is a little more than -0.01 in binary: it must still count as harm
        "delta_pp": round(100 * (result.score - base.score), 9),
        "unpaired_se_pp": 100 * ((result.stderr or 0) ** 2 + (base.stderr or 0) ** 2) ** 0.5 if known else None,
        "primary_metric": result.metric,
    }


def _average_seeds(table: pl.DataFrame) -> pl.DataFrame:
    keys = list(KEY)
    several = pl.len() > 1
    unpaired = pl.col("unpaired_se_pp").cast(pl.Float64).first()
    averaged = table.group_by(keys, maintain_order=True).agg(
        pl.col("base_score", "adapter_score").mean(),
        pl.col("delta_pp").mean().round(9),
        pl.col("primary_metric").first(),
        delta_sd_pp=pl.col("delta_pp").std(),
        se_pp=pl.when(several).then(pl.col("delta_pp").std() / pl.len().sqrt()).otherwise(unpaired),
        n_seeds=pl.len().cast(pl.Int64),
        se_origin=pl.when(several).then(pl.lit(SE_OF_SEEDS)).when(unpaired.is_not_null()).then(pl.lit("unpaired")),
    )
    filled = averaged.with_columns(
        size_b=pl.lit(None, dtype=pl.Float64), seed=pl.lit(None, dtype=pl.Int64), origin=pl.lit("lm-evaluation-harness")
    )
    return filled.select(pl.col(name).cast(dtype) for name, dtype in IMPORTED_SCHEMA.items()).sort(keys)
