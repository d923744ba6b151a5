"""What every page of the local view shows, as values for its template; a page's ``table`` is what its CSV holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl

from transfergrid.analysis.records import at_target
from transfergrid.analysis.statistics.significance import mcnemar_exact_p
from transfergrid.benchmarks.texts import ItemTexts
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import BASELINE_NAME, Cell, UserError
from transfergrid.store.folder import RECORD_FILE, RunFolder
from transfergrid.store.json_text import JsonError, read_json
from transfergrid.store.scores import UNREADABLE, find_unreadable
from transfergrid.view.charts import curve_chart, curve_points, live_matrix, targets_chart
from transfergrid.view.questions import with_probabilities
from transfergrid.view.rows import LOWER_IS_BETTER, ItemRows, Key
from transfergrid.view.status import read_status

PER_PAGE = 20
"""Items on a page."""
CHANGES = ("all", "gained", "lost", "same", "unscored")
_SHOWN_FACTS = (
    *("finished", "kind", "cells", "key.merge.method", "key.merge.weights", "base.path", "base.revision"),
    *("data.n_train", "data.n_validation", "data.hash", "key.lora.r", "key.lora.alpha", "key.training.learning_rate"),
    *("key.training.epochs", "best_epoch", "best_validation_loss", "untrained_validation_loss", "n_steps", "n_tokens"),
    *("resolved.device", "resolved.dtype", "git.commit"),
)
"""Fields of ``training.json``, the names on the way to each separated by dots."""


class Page(NamedTuple):
    """One page."""

    title: str
    values: dict[str, Any]
    table: pl.DataFrame
    """The rows that the page is about."""
    charts: dict[str, alt.LayerChart]


class View:
    """A run folder as pages."""

    def __init__(self, run: RunFolder, config: GridConfig | None, *, where: str | None = None) -> None:
        self.run, self.config, self.where = run, config, where
        self.items = ItemRows(run)
        self.texts = ItemTexts(run, config)

    def page(self, name: str, query: Mapping[str, str], *, tries: int = 5) -> Page:
        """Return a page, made again where a sweep moved a file away that it was reading.

        Raises:
            UserError: If it asks for what is not there, or a file cannot be read.
        """
        parts = self.items.parts()
        try:
            page: Page = getattr(self, name)(query)
        except (UserError, *UNREADABLE) as error:
            if tries > 1 and self.items.parts() != parts:
                return self.page(name, query, tries=tries - 1)
            files = {file.path for files in parts.values() for file in files}
            if isinstance(error, UserError) or (fault := find_unreadable(map(Path, sorted(files)))) is None:
                raise
            raise fault from error
        return page

    def overview(self, query: Mapping[str, str]) -> Page:
        """Return what is done and left, the baselines and, where the run was analysed, the regimes."""
        parts = self.items.parts()
        models = sorted({key.model for key in parts})
        table = self.items.base_scores()
        newest_ns = max((file.changed_ns for files in parts.values() for file in files), default=0)
        regimes, is_old = self._regimes(newest_ns)
        status = read_status(self.run, self.config, where=self.where)
        baselines: dict[str, dict[str, float | None]] = {}
        for row in table.iter_rows(named=True):
            baselines.setdefault(f"{row['target_task']}-{row['target_language']}", {})[row["model"]] = row["base_score"]
        unreadable = sorted(self.items.unreadable - set(status.unreadable))
        values = {"status": status, "models": models, "regimes": regimes, "regimes_are_old": is_old}
        values |= {"baselines": dict(sorted(baselines.items())), "unreadable": unreadable}
        return Page(f"Run {self.run.root.resolve().name}", values, table, {})

    def _regimes(self, newest_ns: int) -> tuple[list[dict[str, Any]], bool]:
        path = self.run.tables / "regimes.parquet"
        try:
            return pl.read_parquet(path).filter(by="all").to_dicts(), path.stat().st_mtime_ns < newest_ns
        except UNREADABLE:
            return [], False

    def matrix(self, query: Mapping[str, str]) -> Page:
        """Return the matrix of one model."""
        model = self._model(query)
        table = self.items.summaries(model)
        sources = {name: source for (owner, name), source in self.items.sources.items() if owner == model}
        settings = self.config.analysis if self.config is not None else AnalysisConfig()
        charts = {"matrix-chart": live_matrix(model, table, sources, settings)} if table.height else {}
        models = sorted({key.model for key in self.items.parts()})
        has_others = any(source.cell is None for source in sources.values())
        return Page(f"Matrix of {model}", {"model": model, "models": models, "has_others": has_others}, table, charts)

    def pair(self, query: Mapping[str, str]) -> Page:
        """Return one source on one target: counts, the McNemar test and the items."""
        key, target = self._key(query), _cell(query, "target")
        rows = with_probabilities(self.items.paired(key, at_target(target)))
        if rows.is_empty():
            raise UserError(f"no item of {target} was scored under both {key.source!r} and the base")
        counts = {change: rows.filter(change=change).height for change in CHANGES[1:]}
        right = rows.filter(change="same").select((pl.col("gain") == 0) == LOWER_IS_BETTER).sum().item()
        common = rows.filter("is_common")
        is_stopped = (key.source, key.seed, target) in self.items.stopped(key.model)
        texts = self.texts.cell(target.task, target.language)
        shown = self._chosen(rows, query, texts.items)
        n_pages = max(-(-shown.height // PER_PAGE), 1)
        number = next((each for each in range(1, n_pages + 1) if str(each) == query.get("page")), 1)
        values = {
            "key": key,
            "target": target.name,
            "seeds": self._seeds(key),
            "counts": counts,
            "is_adaptive": is_stopped or common.height < rows.height,
            "both": right,
            "neither": counts["same"] - right,
            "has_test": _is_right_or_wrong(rows),
            "mcnemar_p": None if is_stopped else _mcnemar(counts["lost"], counts["gained"]),
            "delta_pp": common.select(100 * (pl.col("gain_source") - pl.col("gain")).mean()).item(),
            "n_scored": common.filter(pl.col("change") != "unscored").height,
            "shown": shown.slice((number - 1) * PER_PAGE, PER_PAGE).to_dicts(),
            "n_shown": shown.height,
            "page_number": number,
            "n_pages": n_pages,
            "texts": texts,
            "changes": CHANGES,
        }
        return Page(f"{key.source} on {target}", values, shown, {})

    def _chosen(self, rows: pl.DataFrame, query: Mapping[str, str], texts: Mapping[str, Any]) -> pl.DataFrame:
        """Return the rows that filter and search leave, sorted by the change of the gold's probability."""
        change, words = query.get("change", "all"), query.get("q", "").casefold()
        if change in CHANGES[1:]:
            rows = rows.filter(change=change)
        if words:
            found = [name for name, item in texts.items() if words in f"{item.context} {item.choices}".casefold()]
            in_id = pl.col("item_id").str.to_lowercase().str.contains(words, literal=True)
            rows = rows.filter(in_id | pl.col("item_id").is_in(found))
        column = "item_id" if query.get("sort") == "id" else "gold_change"
        return rows.sort(column, "item_id", descending=[query.get("sort") == "gain", False], nulls_last=True)

    def item(self, query: Mapping[str, str]) -> Page:
        """Return one item in all languages, and what every source of the model does to it."""
        key, task, name = self._key(query), query.get("task", ""), query.get("item", "")
        this = (pl.col("target_task") == task) & (pl.col("item_id") == name)
        rows = with_probabilities(self.items.paired(key, this))
        strip = self.items.strip(key, this)
        if rows.is_empty() and strip.is_empty():
            raise UserError(f"no item {name!r} of task {task!r} was scored under {key.source!r} and the base")
        texts = {
            row["target_language"]: self.texts.cell(task, row["target_language"]) for row in rows.iter_rows(named=True)
        }
        values = {"key": key, "task": task, "item": name, "rows": rows.to_dicts(), "texts": texts}
        languages = strip["target_language"].unique().sort().to_list()
        by_source: dict[str, dict[str, str]] = {}
        for source, language, change in strip.select("source", "target_language", "change").iter_rows():
            by_source.setdefault(source, {})[language] = change
        return Page(f"Item {name} of {task}", {**values, "strip": by_source, "languages": languages}, strip, {})

    def source(self, query: Mapping[str, str]) -> Page:
        """Return one source: its row of the matrix, how it was trained, and the items that it changes most."""
        key = self._key(query)
        row = self.items.summaries(key.model, key)
        record = self._record(key)
        charts: dict[str, alt.LayerChart] = {"row-chart": targets_chart(row)} if row.height else {}
        if points := curve_points(_field(record, "loss_curve.steps"), _field(record, "loss_curve.epochs")):
            charts["curve-chart"] = curve_chart(points)
        most = with_probabilities(self.items.paired(key)).filter(pl.col("gold_change").is_not_null())
        most = most.sort(pl.col("gold_change").abs(), descending=True).head(PER_PAGE)
        found = ((name.removeprefix("key."), _field(record, name)) for name in _SHOWN_FACTS)
        facts = {
            name: f"{value:.4g}" if isinstance(value, float) else value for name, value in found if value is not None
        }
        values = {"key": key, "seeds": self._seeds(key), "row": row.to_dicts(), "facts": facts, "most": most.to_dicts()}
        return Page(f"{key.source}, {key.model}", values, row, charts)

    def compare(self, query: Mapping[str, str]) -> Page:
        """Return two sources of a model on the same targets, item by item."""
        key = self._key(query)
        name = query.get("other", "")
        seeds = self._seeds(Key(key.model, name, key.seed))
        seed = query.get("other_seed", str(key.seed if key.seed in seeds else next(iter(seeds), key.seed)))
        other = self._key({**query, "source": name, "seed": seed})
        both = self.items.paired(key).join(
            self.items.paired(other), on=["target_task", "target_language", "item_id"], suffix="_other", validate="1:1"
        )
        one, two = pl.col("gain_source"), pl.col("gain_source_other")
        table = (
            both.filter("is_common", one.is_not_null() & two.is_not_null() & pl.col("gain").is_not_null())
            .group_by("target_task", "target_language", maintain_order=True)
            .agg(
                n_items=pl.len().cast(pl.Int64),
                delta_pp=100 * (one - pl.col("gain")).mean(),
                other_delta_pp=100 * (two - pl.col("gain")).mean(),
                n_only_this=(one > two).sum().cast(pl.Int64),
                n_only_other=(two > one).sum().cast(pl.Int64),
            )
        )
        p = mcnemar_exact_p(table["n_only_other"].to_numpy(), table["n_only_this"].to_numpy())
        is_tested = _is_right_or_wrong(both)
        table = table.with_columns(mcnemar_p=pl.Series(p) if is_tested else pl.lit(None, dtype=pl.Float64))
        sources = sorted({each.source for each in self.items.parts() if each.model == key.model} - {BASELINE_NAME})
        values = {"key": key, "other": other, "rows": table.to_dicts(), "sources": sources}
        return Page(f"{key.source} and {other.source}", values, table, {})

    def _model(self, query: Mapping[str, str]) -> str:
        models = sorted({key.model for key in self.items.parts()})
        model = query.get("model") or next(iter(models), "")
        if not models:
            raise UserError(
                "the run has no scores of items yet; 'grid eval' writes them, and 'grid report' shows an imported table"
            )
        if model not in models:
            raise UserError(f"no model {model!r} in the run; expected one of {models}")
        return model

    def _key(self, query: Mapping[str, str]) -> Key:
        """Return the source that a page is about; without a seed, its first."""
        model, source = self._model(query), query.get("source", "")
        seeds = [key.seed for key in self.items.parts() if (key.model, key.source) == (model, source)]
        if not seeds or source == BASELINE_NAME:
            raise UserError(f"no scores of source {source!r} under model {model!r} in the run")
        wanted = query.get("seed", str(seeds[0]))
        if wanted not in map(str, seeds):
            raise UserError(f"source {source!r} has no seed {wanted}; expected one of {seeds}")
        return Key(model, source, int(wanted))

    def _seeds(self, key: Key) -> list[int]:
        return [each.seed for each in self.items.parts() if each[:2] == key[:2]]

    def _record(self, key: Key) -> Any:
        path = self.run.adapters / key.model / f"s{key.seed}" / key.source / RECORD_FILE
        if not path.resolve().is_relative_to(self.run.adapters.resolve()):
            return {}
        try:
            return read_json(path, allow_nan=True)
        except JsonError:
            return {}


def _field(record: Any, path: str) -> Any:
    """Return a field inside a JSON value, None where it is not there."""
    for name in path.split("."):
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _cell(query: Mapping[str, str], name: str) -> Cell:
    task, _, language = query.get(name, "").rpartition("-")
    if not task or not language:
        raise UserError(f"{name} {query.get(name, '')!r} is no cell; expected 'task-lang'")
    return Cell(task, language)


def _is_right_or_wrong(rows: pl.DataFrame) -> bool:
    """Whether every item is right or wrong; values in between have no McNemar test."""
    values = pl.concat([rows["value"], rows["value_source"]]).drop_nulls()
    return bool(values.is_in([0.0, 1.0]).all())


def _mcnemar(n_lost: int, n_gained: int) -> float:
    return float(mcnemar_exact_p(np.array([n_lost]), np.array([n_gained]))[0])
