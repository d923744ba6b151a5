"""Brings results of lm-evaluation-harness into a run: aggregates, or items where samples were logged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

import polars as pl

from transfergrid.analysis.imports.lm_eval_aggregates import aggregates
from transfergrid.analysis.imports.lm_eval_conditions import BY_ITEM, differences
from transfergrid.analysis.imports.lm_eval_items import Items, count_remarks, item_rows
from transfergrid.analysis.imports.lm_eval_results import Result, read_results
from transfergrid.analysis.imports.lm_eval_samples import Answer, read_answers
from transfergrid.analysis.imports.report import ImportReport, summarise_import
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import REMARK_SCHEMA, remove_import, write_import
from transfergrid.wording import listed

_SHOWN = 5


class ResultsFormat(NamedTuple):
    """A kind of files that hold the harness' results."""

    stem: str
    """Start of the names of the files that an import writes."""
    pattern: str
    """Names of the results files."""
    next_step: str
    """Which folder to give, for messages."""
    read_results: Callable[[Path, set[str]], Iterable[Result]]
    """Reads a results file; adds the names of tasks that are skipped."""
    read_answers: Callable[[Result], list[Answer]]
    """Reads a result's samples."""


_FORMAT = ResultsFormat(
    "lm_eval", "results_*.json", "give lm-evaluation-harness's --output_path", read_results, read_answers
)


def import_lm_eval(folder: Path, run: RunFolder, *, allow_mismatch: bool = False) -> ImportReport:
    """Read every ``results_*.json`` below a folder into the run's imports.

    A model whose every result has its samples logged becomes item rows (``imported/scores/lm_eval.*.parquet``); the
    others become aggregates (``imported/lm_eval.*.parquet``), adapter against baseline, averaged over seeds.

    What an earlier import of such results left is replaced, whichever of the two it was.

    Args:
        folder: The harness' output.
        run: The run's folder.
        allow_mismatch: Keep adapters that were run under other conditions than their baseline, with a remark.

    Raises:
        UserError: If there are no results, a file is not such JSON, no result fits a cell, a baseline is missing,
            a target's results differ in their metric or, without samples, in their number of items, or baseline and
            adapter were run under different conditions.
    """
    return import_results(folder, run, _FORMAT, allow_mismatch=allow_mismatch)


def import_results(folder: Path, run: RunFolder, kind: ResultsFormat, *, allow_mismatch: bool) -> ImportReport:
    """Read every results file of a kind below a folder into the run's imports; see `import_lm_eval`."""
    paths = sorted(folder.rglob(kind.pattern))
    if not paths:
        raise UserError(f"no {kind.pattern!r} below {str(folder)!r}; {kind.next_step}")
    skipped: set[str] = set()
    found = [result for path in paths for result in kind.read_results(path, skipped)]
    if not found:
        raise UserError(f"no result below {str(folder)!r} is of a task with a language; skipped {sorted(skipped)}")
    found, remarks = _tell_models_apart(found)
    results = _newest(found)
    _check_metrics(results)
    without = {result.model for result in results if result.unlogged}
    items = item_rows([result for result in results if result.model not in without], kind.read_answers)
    mismatches = list(_mismatches(results, items))
    if mismatches and not allow_mismatch:
        raise UserError(
            f"{mismatches[0]}, {_results(len(mismatches))}: their delta is not the adapter's alone; run both alike, or "
            "give --allow-mismatch to keep them with a remark in every table"
        )
    whole = [result for result in results if result.model in without and result.acc is not None]
    deltas = aggregates(whole) if without else None
    if deltas is None and items.rows.is_empty():
        raise UserError(f"the samples files below {str(folder)!r} are empty; run the tasks again")
    reports = _write(items.rows if items.rows.height else None, deltas, run, kind.stem)
    _write_remarks(mismatches, run, kind.stem)
    remarks = [*_remarks(skipped, len(found) - len(results)), *remarks, *_unlogged_remarks(results)]
    if mismatches:
        remarks.append(f"{mismatches[0]}, {_results(len(mismatches))}; kept with a remark in every table")
    return _merge_reports(reports, run, tuple(remarks))


def _newest(found: Iterable[Result]) -> list[Result]:
    """Return the newest result of every model, seed, source and target, sorted by these."""
    newest: dict[tuple[str, int, str, str], Result] = {}
    for result in sorted(found, key=lambda each: each.time):
        _refuse_another_adapter(result, newest.get(result.key))
        newest[result.key] = result
    return [newest[key] for key in sorted(newest)]


class _Mismatch(NamedTuple):
    """A result of an adapter that was run under other conditions than its baseline."""

    result: Result
    reason: str

    def __str__(self) -> str:
        """Say which result it is, and how the runs differ."""
        return (
            f"source {self.result.source.name!r} of model {self.result.model!r} was run on "
            f"{self.result.target.name!r} under other conditions than its baseline ({self.reason})"
        )


def _results(n: int) -> str:
    return "one such result" if n == 1 else f"{n} such results"


def _mismatches(results: Sequence[Result], items: Items) -> Iterator[_Mismatch]:
    bases = {(each.model, each.target.name): each for each in results if each.source.is_base}
    paired_by_item = set(items.rows["model"])
    for result in results:
        base = bases.get((result.model, result.target.name), result)
        left_out = BY_ITEM if result.model in paired_by_item else ()
        reasons = [*differences(result.conditions, base.conditions, leave_out=left_out)]
        reasons += items.mismatches.get(result.key, ())
        if reasons:
            yield _Mismatch(result, ", ".join(reasons))


def _write(items: pl.DataFrame | None, deltas: pl.DataFrame | None, run: RunFolder, stem: str) -> list[ImportReport]:
    reports = []
    if items is None:
        remove_import(run.imported / "scores", stem)
    else:
        path = write_import(run.imported / "scores", stem, items)
        reports.append(summarise_import(path, items, "item rows", tuple(count_remarks(items))))
    if deltas is None:
        remove_import(run.imported, stem)
    else:
        reports.append(summarise_import(write_import(run.imported, stem, deltas), deltas, "aggregates"))
    return reports


def _write_remarks(mismatches: Sequence[_Mismatch], run: RunFolder, stem: str) -> None:
    folder = run.imported / "remarks"
    rows = [
        (each.model, each.source.cell.task, each.source.cell.language, each.target.task, each.target.language, reason)
        for each, reason in mismatches
        if each.source.cell is not None
    ]
    if rows:
        write_import(folder, stem, pl.DataFrame(rows, schema=REMARK_SCHEMA, orient="row").unique().sort(pl.all()))
    else:
        remove_import(folder, stem)


def _tell_models_apart(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Name models in full where the last part of their names is that of another one too."""
    names: dict[str, set[str]] = defaultdict(set)
    for result in results:
        names[result.model].add(result.base)
    shared = {model: sorted(bases) for model, bases in names.items() if len(bases) > 1}
    remarks = [
        f"{len(bases)} base models are called {model!r} ({listed(bases, _SHOWN)}); they are kept apart under their "
        "full names"
        for model, bases in sorted(shared.items())
    ]
    return [replace(each, model=each.base) if each.model in shared else each for each in results], remarks


def _refuse_another_adapter(result: Result, earlier: Result | None) -> None:
    """Refuse a result that would replace one of another adapter: the folders' names do not tell the two apart."""
    if earlier is None or earlier.adapter is None or result.adapter is None:
        return
    first, second = sorted((PurePath(earlier.adapter).parts, PurePath(result.adapter).parts), key=len)
    if second[-len(first) :] != first:
        raise UserError(
            f"adapters {earlier.adapter!r} and {result.adapter!r} of model {result.model!r} are both source "
            f"{result.source.name!r} under seed {result.seed}; put each into a folder sSEED, such as "
            f"'s17/{result.source.name}', and import one seed's adapter once"
        )


def _remarks(skipped: set[str], n_replaced: int) -> list[str]:
    remarks = []
    if skipped:
        remarks.append(f"skipped tasks without a language: {', '.join(sorted(skipped))}")
    if n_replaced:
        remarks.append(f"{n_replaced} results were replaced by later ones of the same source and target")
    return remarks


def _unlogged_remarks(results: Sequence[Result]) -> Iterator[str]:
    """Yield why a model with some samples came in without them, and which targets have no score without them."""
    for model in sorted({result.model for result in results if result.samples}):
        lacking = [result for result in results if result.model == model and result.unlogged]
        if lacking:
            targets = sorted({result.target.name for result in lacking})
            yield (
                f"model {model!r} came in as aggregates, without pairing by item, since samples are missing for "
                f"{listed(targets, _SHOWN)} (first: task {lacking[0].unlogged[0]!r}); log the samples of every task"
            )
            without = sorted({each.target.name for each in results if each.model == model and each.acc is None})
            if without:
                yield f"left out, as aggregates have no score of them without their samples: {listed(without, _SHOWN)}"


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
