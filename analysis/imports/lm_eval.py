"""Brings results of lm-evaluation-harness into a run: aggregates, or items where samples were logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from transfergrid.analysis.imports.lm_eval_results import Result, read_results
from transfergrid.analysis.imports.lm_eval_samples import item_rows
from transfergrid.analysis.imports.report import ImportReport, summarise_import
from transfergrid.grid import UserError
from transfergrid.store.files import write_atomically
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import IMPORTED_SCHEMA, SE_OF_SEEDS
from transfergrid.store.scores import SCORE_SCHEMA

_SHOWN = 5


def import_lm_eval(folder: Path, run: RunFolder) -> ImportReport:
    """Read every ``results_*.json`` below a folder into the run's imports.

    A model whose every result has its samples logged becomes item rows (``imported/scores/lm_eval.parquet``); the
    others become aggregates (``imported/lm_eval.parquet``), adapter against baseline, averaged over seeds.

    What an earlier import of such results left is replaced, whichever of the two it was.

    Raises:
        UserError: If there are no results, a file is not such JSON, no result fits a cell, a baseline is missing, or
            a target's results differ in their metric or, without samples, in their number of items.
    """
    paths = sorted(folder.rglob("results_*.json"))
    if not paths:
        raise UserError(f"no 'results_*.json' below {str(folder)!r}; give lm-evaluation-harness's --output_path")
    skipped: set[str] = set()
    found = [result for path in paths for result in read_results(path, skipped)]
    if not found:
        raise UserError(f"no result below {str(folder)!r} is of a task with a language; skipped {sorted(skipped)}")
    newest = {result.key: result for result in sorted(found, key=lambda each: each.time)}
    results = [newest[key] for key in sorted(newest)]
    _check_metrics(results)
    without = {result.model for result in results if result.unlogged}
    items = [result for result in results if result.model not in without]
    others = [result for result in results if result.model in without]
    reports = [
        *([_write_items(items, run)] if items else []),
        *([_write_aggregates(others, run)] if others else []),
    ]
    for written, path in ((items, _item_file(run)), (others, _aggregate_file(run))):
        if not written:
            path.unlink(missing_ok=True)
    remarks = _remarks(skipped, len(found) - len(results)) + tuple(_unlogged_remarks(results))
    return _merge_reports(reports, run, remarks)


def _item_file(run: RunFolder) -> Path:
    return run.imported / "scores" / "lm_eval.parquet"


def _aggregate_file(run: RunFolder) -> Path:
    return run.imported / "lm_eval.parquet"


def _remarks(skipped: set[str], n_replaced: int) -> tuple[str, ...]:
    remarks = []
    if skipped:
        remarks.append(f"skipped tasks without a language: {', '.join(sorted(skipped))}")
    if n_replaced:
        remarks.append(f"{n_replaced} results were replaced by later ones of the same source and target")
    return tuple(remarks)


def _unlogged_remarks(results: Sequence[Result]) -> Iterator[str]:
    """Say of every model with some samples why it came in without them."""
    for model in sorted({result.model for result in results if result.samples}):
        lacking = [result for result in results if result.model == model and result.unlogged]
        if lacking:
            targets = sorted({result.target.name for result in lacking})
            yield (
                f"model {model!r} came in as aggregates, without pairing by item, since samples are missing for "
                f"{_listed(targets)} (first: task {lacking[0].unlogged[0]!r}); log the samples of every task"
            )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _check_metrics(results: Sequence[Result]) -> None:
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        other = first.setdefault((result.model, result.target.name), result)
        if other.metric != result.metric:
            raise UserError(
                f"target {result.target.name!r} of model {result.model!r} has {other.metric} for source "
                f"{other.source.name!r} and {result.metric} for {result.source.name!r}; score both with the same "
                "version of the task"
            )


def _merge_reports(reports: Sequence[ImportReport], run: RunFolder, remarks: tuple[str, ...]) -> ImportReport:
    first = reports[0]
    return ImportReport(
        first.path if len(reports) == 1 else run.imported,
        sum(report.n_rows for report in reports),
        " and ".join(report.what for report in reports),
        tuple(sorted({model for report in reports for model in report.models})),
        max(report.n_sources for report in reports),
        max(report.n_targets for report in reports),
        tuple(remark for report in reports for remark in report.remarks) + remarks,
    )


def _write_aggregates(results: Sequence[Result], run: RunFolder) -> ImportReport:
    baselines = {(each.model, each.target.name): each for each in results if each.source.is_base}
    records = []
    for result in results:
        if result.source.cell is None:
            continue
        base = baselines.get((result.model, result.target.name))
        if base is None:
            raise UserError(
                f"model {result.model!r} has no baseline on {result.target.name!r}; run lm-evaluation-harness "
                "without the adapter on the same tasks and put its results in the same folder"
            )
        _check_counts(result, base)
        records.append(_delta_record(result, base))
    if not records:
        raise UserError("the results are of base models only; expected runs with 'peft=...' or 'lora_local_path=...'")
    table = _average_seeds(pl.DataFrame(records))
    path = _aggregate_file(run)
    write_atomically(path, table.write_parquet)
    return summarise_import(path, table, "aggregates")


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
    keys = ["model", "source_task", "source_language", "target_task", "target_language"]
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


def _write_items(results: Sequence[Result], run: RunFolder) -> ImportReport:
    rows = [row for result in results for row in item_rows(result)]
    table = pl.DataFrame(rows, schema=SCORE_SCHEMA, orient="row")
    path = _item_file(run)
    write_atomically(path, table.write_parquet)
    return summarise_import(path, table, "item rows", tuple(_count_remarks(table)))


def _count_remarks(table: pl.DataFrame) -> Iterator[str]:
    """Say where an adapter was scored on other items than its baseline."""
    target = ["model", "target_task", "target_language"]
    is_base = pl.col("source_task").is_null()
    base = table.filter(is_base).select(*target, "item_id", in_base=True).unique()
    adapters = table.filter(~is_base).join(base, on=[*target, "item_id"], how="left", validate="m:1")
    n_base = base.group_by(target).agg(n_base=pl.len())
    counts = adapters.group_by(*target, "source_task", "source_language", "seed").agg(
        n=pl.len(), n_paired=pl.col("in_base").is_not_null().sum()
    )
    other = counts.join(n_base, on=target).filter(
        (pl.col("n_paired") < pl.col("n")) | (pl.col("n_paired") < pl.col("n_base"))
    )
    if other.height:
        row = other.sort(pl.all()).row(0, named=True)
        yield (
            f"{_results(other.height)} other items than the baseline, only those of both are compared; first: "
            f"{row['source_task']}-{row['source_language']} on {row['target_task']}-{row['target_language']} "
            f"({row['n']} items, baseline {row['n_base']}, both {row['n_paired']})"
        )


def _results(n: int) -> str:
    return "1 result has" if n == 1 else f"{n} results have"
