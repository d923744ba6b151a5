"""What stands in the store at the end of a sweep: baselines, mean deltas, what is missing and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import polars as pl
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from transfergrid.benchmarks.metrics import lower_is_better
from transfergrid.benchmarks.spec import HARNESS_METRICS
from transfergrid.config.selection import Selection
from transfergrid.engine.evaluation.harness_values import HARNESS_SCHEMA, harness_table, harness_values
from transfergrid.engine.work.failures import Failure, describe_failures, is_about, read_failures
from transfergrid.grid import BASE, BASE_KIND, CELL_KIND, Cell, Regime
from transfergrid.store.common_items import common_rows, partial_tasks
from transfergrid.store.counts import describe_counts, sum_counts
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import CellRecord, Origin, Part, Scan, StoredCell
from transfergrid.store.scores import SOURCE_COLUMNS, VARIANT, scan_scores, with_regime

SHOWN_FAULTS = 30

_TARGET = ("model", "target_task", "target_language")
_SOURCE = ("seed", *SOURCE_COLUMNS)
_IS_BASE = pl.col("source_kind") == BASE_KIND


class Totals(NamedTuple):
    """What one run of the sweep did."""

    n_cells: int = 0
    n_items: int = 0
    n_computed_tokens: int = 0
    n_repeated_tokens: int = 0
    scoring_s: float = 0.0
    wall_s: float = 0.0

    def plus(self, record: CellRecord, *, is_last: bool = True) -> Totals:
        """Return the totals with one more cell, or a slice of it."""
        return self._replace(
            n_cells=self.n_cells + is_last,
            n_items=self.n_items + record.n_items,
            n_computed_tokens=self.n_computed_tokens + record.n_computed_tokens,
            n_repeated_tokens=self.n_repeated_tokens + record.n_repeated_tokens,
            scoring_s=self.scoring_s + record.wall_s,
        )

    @property
    def saved_share(self) -> float:
        """Share of the repeated tokens that sharing did not compute; 0 where nothing was scored."""
        return 1 - self.n_computed_tokens / self.n_repeated_tokens if self.n_repeated_tokens else 0.0


class Stopped(NamedTuple):
    """What an adaptive evaluation left out."""

    n_pairs: int
    """Finished (adapter, target) pairs."""
    n_stopped: int
    """Pairs of these that were stopped before their last item."""
    n_items: int
    """Items that were scored of these pairs, in this run and before."""
    n_planned: int
    """Items that they would have without stopping."""

    def __str__(self) -> str:
        """Return what was saved, and what was not decided."""
        saved = 1 - self.n_items / self.n_planned if self.n_planned else 0.0
        return (
            f"adaptive: {self.n_stopped:,} of {self.n_pairs:,} pairs of adapter and target stopped early, {saved:.0%} "
            f"of the items were not scored; a stopped pair is not decided (its change, if any, is too small to show "
            f"with so many items) and counts as p = 1; the other {self.n_pairs - self.n_stopped:,} have their test"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """The end of a sweep."""

    totals: Totals
    n_cells: int
    """(source, target) pairs that were asked for and whose source is usable."""
    n_finished: int
    """Pairs of these that are in the store now."""
    baselines: pl.DataFrame
    """model, target_task, target_language, n_items, n_unscored, score (0..1, null: nothing scored)."""
    deltas: pl.DataFrame
    """model, source_kind, regime, n_pairs, mean_delta_pp over pairs with a baseline."""
    failures: tuple[Failure, ...]
    unscored: pl.DataFrame
    """model, target_task, target_language, item_id, unscored_reason, n_sources."""
    counts: Mapping[str, int]
    """What happened to items and choices, summed over the stored cells; see ``store.counts``."""
    stopped: Stopped | None = None
    """None: all items of all pairs were to be scored."""
    harness: pl.DataFrame = field(default_factory=HARNESS_SCHEMA.to_frame)
    """The harness' own numbers, see `harness_values`."""

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for is there."""
        return self.n_finished == self.n_cells and not self.failures and self.unscored.is_empty()

    def as_json(self) -> dict[str, Any]:
        """Return the report for a program."""
        return {
            "is_complete": self.is_complete,
            "n_cells": self.n_cells,
            "n_finished": self.n_finished,
            **self.totals._asdict(),
            "baselines": self.baselines.to_dicts(),
            "deltas": self.deltas.to_dicts(),
            "harness": self.harness.to_dicts(),
            "failures": [{"what": failure.what, "reason": failure.reason} for failure in self.failures],
            "unscored": self.unscored.to_dicts(),
            "counts": dict(self.counts),
            "adaptive": None if self.stopped is None else self.stopped._asdict(),
        }

    def rows(self) -> pl.DataFrame:
        """Return the baselines."""
        return self.baselines

    def __rich__(self) -> RenderableType:
        """Render as tables, one of baselines per model, then what is missing."""
        models = self.baselines["model"].unique(maintain_order=True).to_list()
        parts: list[RenderableType] = [_baseline_table(self.baselines, model) for model in models]
        if not self.deltas.is_empty():
            parts.append(_delta_table(self.deltas))
        if not self.harness.is_empty():
            parts.append(harness_table(self.harness))
        lines = [self._closing_line(), self._count_line(), *self._fault_lines()]
        if self.stopped is not None:
            lines.insert(1, str(self.stopped))
        return Group(*parts, *map(Text, lines))

    def _closing_line(self) -> str:
        totals = self.totals
        line = f"{self.n_finished:,} of {self.n_cells:,} cells are in the store; this run scored {totals.n_cells:,} "
        line += f"({totals.n_items:,} items) in {totals.wall_s:,.1f} s"
        if totals.n_cells and totals.scoring_s > 0:
            line += (
                f", {totals.n_items / totals.scoring_s:,.1f} items/s; {totals.n_computed_tokens:,} tokens computed, "
                f"{totals.n_repeated_tokens:,} without sharing ({totals.saved_share:.0%} saved)"
            )
        return line

    def _count_line(self) -> str:
        return f"in the cells that were asked for: {describe_counts(self.counts)}"

    def _fault_lines(self) -> list[str]:
        failed = describe_failures(self.failures)
        lines = failed + [
            f"not scored: {row['model']} {row['target_task']}-{row['target_language']} item {row['item_id']!r} "
            f"({row['n_sources']} source(s)): {row['unscored_reason']}"
            for row in self.unscored.head(SHOWN_FAULTS).iter_rows(named=True)
        ]
        hidden = len(failed) + self.unscored.height - SHOWN_FAULTS
        return lines if hidden <= 0 else [*lines[:SHOWN_FAULTS], f"and {hidden} more; all with --json"]


def summarise(
    run: RunFolder,
    selection: Selection,
    pairs: Mapping[tuple[Origin, Cell], bool],
    totals: Totals,
    parts: Sequence[Part],
) -> EvaluationReport:
    """Read the rows of the store and sum up what was asked for.

    ``pairs`` has every (source, target) whose source is usable, and whether nothing of it is left to score.
    """
    stored = Scan(tuple(parts)).cells()
    origins = {origin for origin, _ in pairs}
    paths = [part.path for part in parts if part.origin in origins]
    targets = pl.DataFrame(
        [(cell.task, cell.language) for cell in selection.targets],
        schema={"target_task": pl.String, "target_language": pl.String},
        orient="row",
    )
    rows = scan_scores(paths).join(targets.lazy(), on=["target_task", "target_language"], how="semi")
    scores = score_cells(rows).collect()
    baselines = scores.filter(_IS_BASE).select(*_TARGET, "n_items", "n_unscored", "score")
    is_counted = scores["primary_metric"].is_in(HARNESS_METRICS).any()
    return EvaluationReport(
        totals=totals,
        n_cells=len(pairs),
        n_finished=sum(pairs.values()),
        baselines=baselines.sort(_TARGET),
        deltas=mean_deltas(score_cells(common_rows(rows, partial_tasks(stored))).collect()),
        failures=tuple(failure for failure in read_failures(run.scores) if is_about(selection, failure)),
        unscored=_unscored(rows).collect(),
        counts=sum_counts(asdict(record) for pair in pairs if pair in stored for _, record in stored[pair].slices),
        harness=harness_values(rows if is_counted else rows.clear()),  # parts are not read once more for nothing
        stopped=_stopped([stored[pair] for pair, is_done in pairs.items() if is_done and pair[0].source != BASE]),
    )


def _stopped(cells: Sequence[StoredCell]) -> Stopped | None:
    if all(cell.record.start is None for cell in cells):
        return None
    n_items, n_planned = [cell.n_items for cell in cells], [cell.n_planned for cell in cells]
    n_stopped = sum(cell.is_short for cell in cells)
    return Stopped(len(cells), n_stopped, sum(n_items), sum(n_planned))


def score_cells(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row per (model, source, target): items, unscored items and the score by the primary metric."""
    return (
        rows.group_by(*_TARGET, *_SOURCE)
        .agg(
            n_items=pl.len(),
            n_unscored=pl.col("value").is_null().sum(),
            score=pl.col("value").mean(),  # null where not scored, left out of the mean
            primary_metric=pl.col("primary_metric").first(),
        )
        .sort(*_TARGET, *_SOURCE, nulls_last=False)
    )


def mean_deltas(scores: pl.DataFrame) -> pl.DataFrame:
    """Return the mean delta in percentage points per model, kind of source and regime, over pairs with a baseline.

    Every variant of the recipe is a kind of its own: ``variant r8``.
    """
    baselines = scores.filter(_IS_BASE).select(*_TARGET, base_score="score")
    pairs = scores.filter(~_IS_BASE).join(baselines, on=_TARGET, validate="m:1")
    sign = pl.when(pl.col("primary_metric").is_in(lower_is_better())).then(-100).otherwise(100)
    place = {regime.value: place for place, regime in enumerate(Regime)}
    return (
        with_regime(pairs)
        .with_columns(delta_pp=sign * (pl.col("score") - pl.col("base_score")))
        .drop_nulls("delta_pp")
        .with_columns(source_kind=pl.concat_str("source_kind", VARIANT, separator=" ", ignore_nulls=True))
        .group_by("model", "source_kind", "regime")
        .agg(n_pairs=pl.len(), mean_delta_pp=pl.col("delta_pp").mean())
        .sort("model", "source_kind", pl.col("regime").replace_strict(place, default=-1), "regime")
    )


def _unscored(rows: pl.LazyFrame) -> pl.LazyFrame:
    keys = (*_TARGET, "item_id", "unscored_reason")
    return rows.filter(pl.col("unscored_reason").is_not_null()).group_by(keys).agg(n_sources=pl.len()).sort(keys)


def _baseline_table(baselines: pl.DataFrame, model: str) -> Table:
    rows = baselines.filter(pl.col("model") == model)
    languages = rows["target_language"].unique().sort().to_list()
    scores = {(row["target_task"], row["target_language"]): row["score"] for row in rows.iter_rows(named=True)}
    table = Table(title=f"Baseline of {escape(model)}, score in %")
    table.add_column("task")
    for language in languages:
        table.add_column(Text(language), justify="right")
    for task in rows["target_task"].unique().sort().to_list():
        values = (scores.get((task, language)) for language in languages)
        table.add_row(Text(task), *("-" if value is None else f"{100 * value:.1f}" for value in values))
    return table


def _delta_table(deltas: pl.DataFrame) -> Table:
    table = Table(title="Mean delta per regime")
    for name, justify in (("model", "left"), ("regime", "left"), ("pairs", "right"), ("mean delta pp", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in deltas.iter_rows(named=True):
        kind = "" if row["source_kind"] == CELL_KIND else f" ({row['source_kind']})"
        table.add_row(Text(row["model"]), row["regime"] + kind, f"{row['n_pairs']:,}", f"{row['mean_delta_pp']:+.2f}")
    return table
