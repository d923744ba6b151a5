"""Item rows of a run, found by the footers of its parts and read only as far as a page needs them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from transfergrid.benchmarks.metrics import lower_is_better
from transfergrid.grid import BASELINE_NAME, VARIANT_MARK, Cell, Source, UserError
from transfergrid.store.common_items import common_rows
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import Origin, Scan, StoreError, describe_part
from transfergrid.store.scores import UNREADABLE, scan_scores

LOWER_IS_BETTER = pl.col("primary_metric").is_in(lower_is_better())
GAIN = (
    pl.when(pl.col("unscored_reason").is_null())
    .then(pl.when(LOWER_IS_BETTER).then(-pl.col("value")).otherwise("value"))
    .alias("gain")
)
"""The value by the target's metric, higher is better; null: not scored."""
ITEM = ("target_task", "target_language", "item_id")
"""Key of an item in one language."""
_KEEPS_MODELS = 64


class Key(NamedTuple):
    """One source of one model under one training seed; the base has seed -1."""

    model: str
    source: str
    seed: int


class File(NamedTuple):
    """A part as it was when it was found; once its content is another it is another `File`."""

    path: str
    changed_ns: int
    n_bytes: int
    is_mixed: bool = False
    """Whether it has the rows of several sources."""


Parts = dict[Key, tuple[File, ...]]
"""The files of every source."""


class ItemRows:
    """The rows of a run by model, source and seed; safe to use from several threads."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._keys: dict[File, list[Key] | None] = {}
        self._lock = threading.Lock()
        self._summarise = lru_cache(_KEEPS_MODELS)(_summarise)
        self._score_base = lru_cache(_KEEPS_MODELS)(_score_base)
        self._stopped = lru_cache(_KEEPS_MODELS)(_stopped)
        self.sources: dict[tuple[str, str], Source] = {}
        """What was trained, by model and name."""

    def parts(self) -> Parts:
        """Return the files of every source as they are now."""
        with self._lock:
            there = [*_files(self._run.scores), *_files(self._run.imported / "scores")]
            new = [file for file in there if file not in self._keys]
            with ThreadPoolExecutor(2) as pool:
                read = dict(zip(new, pool.map(self._keys_of, new), strict=True))
            self._keys = {file: read[file] if file in read else self._keys[file] for file in there}
            found: dict[Key, list[File]] = {}
            for file, keys in self._keys.items():
                for key in keys or ():
                    found.setdefault(key, []).append(file._replace(is_mixed=len(keys or ()) > 1))
        return {key: tuple(found[key]) for key in sorted(found)}

    @property
    def unreadable(self) -> set[str]:
        """Names of the parts that cannot be read."""
        return {Path(file.path).name for file, keys in self._keys.items() if keys is None}

    def _keys_of(self, file: File) -> list[Key] | None:
        try:
            rows = _sources_of(Path(file.path))
        except (*UNREADABLE, ValueError, KeyError, StoreError):
            return None
        self.sources |= {(model, source.name): source for model, source in rows if not source.is_base}
        return [Key(model, source.name, -1 if source.seed is None else source.seed) for model, source in rows]

    def paired(self, key: Key, filters: pl.Expr | None = None) -> pl.DataFrame:
        """Return the base's rows with what the source says of the same items: its columns end in ``_source``.

        ``change`` is ``gained``, ``lost``, ``same`` or ``unscored``: of the value by the target's metric. ``is_common``
        is whether the item counts in deltas: of an adaptive evaluation only those do that every pair has.

        Raises:
            UserError: If an item stands there twice, or the two disagree on its gold.
        """
        parts = self.parts()
        ours, theirs = (
            _rows(parts, [each]).filter(True if filters is None else filters) for each in (_base(key.model), key)
        )
        both = ours.join(theirs, on=ITEM, suffix="_source", maintain_order="left").collect()
        other_gold = (pl.col("gold") != pl.col("gold_source")).sum()
        _refuse(
            both.select(source=pl.lit(key.source), repeated=pl.struct(ITEM).is_duplicated().any(), other=other_gold)
        )
        rows = both.with_columns(change=_change(pl.col("gain_source") - pl.col("gain")), is_common=True)
        if tasks := {target.task for _, _, target in self.stopped(key.model)}:
            every = _rows(parts, [key]).select("model", "seed", "target_task", "item_id").unique()
            common = common_rows(every, {(key.model, task) for task in tasks}).collect()
            rows = rows.with_columns(
                is_common=pl.struct("target_task", "item_id").is_in(
                    common.select(pl.struct("target_task", "item_id")).to_series().implode()
                )
            )
        return rows

    def stopped(self, model: str) -> frozenset[tuple[str, int, Cell]]:
        """Return source, seed and target of the pairs of an adaptive evaluation that have not all their items."""
        return self._stopped(self._of_model(model))

    def _of_model(self, model: str) -> tuple[tuple[Key, tuple[File, ...]], ...]:
        return tuple((key, files) for key, files in self.parts().items() if key.model == model)

    def summaries(self, model: str, only: Key | None = None) -> pl.DataFrame:
        """Return one row per (source, seed, target) of a model, or of one source: items, base score, delta, changes.

        Deltas are over the items that both scored, of an adaptive evaluation over those that every pair has. The table
        of a model stays in memory as long as its files stay.

        Raises:
            UserError: If an item stands there twice, or a source and the base disagree on its gold.
        """
        parts, base = self._of_model(model), _base(model)
        tasks = frozenset((model, target.task) for _, _, target in self._stopped(parts))
        return self._summarise(tuple(each for each in parts if only is None or each[0] in (only, base)), tasks)

    def base_scores(self) -> pl.DataFrame:
        """Return the base's score on every target, model by model."""
        bases = [(key.model, files) for key, files in self.parts().items() if key == _base(key.model)]
        return pl.concat([self._score_base(*each) for each in bases]) if bases else pl.DataFrame()

    def strip(self, key: Key, filters: pl.Expr) -> pl.DataFrame:
        """Return what every source of the model, under the key's seed, does to some items."""
        parts = self.parts()
        keys = [each for each in parts if (each.model, each.seed) == (key.model, key.seed) and each != _base(key.model)]
        both = _beside_base(parts, keys, filters)
        changed = both.with_columns(change=_change(pl.col("gain") - pl.col("base_gain")))
        return changed.select(*ITEM, "gain", "source", "base_gain", "change").sort("source", *ITEM).collect()


def _base(model: str) -> Key:
    return Key(model, BASELINE_NAME, -1)


SUMMARY_SCHEMA = {
    "source": pl.String,
    "seed": pl.Int64,
    "target_task": pl.String,
    "target_language": pl.String,
    "n_items": pl.Int64,
    "base_score": pl.Float64,
    "delta_pp": pl.Float64,
    "n_gained": pl.Int64,
    "n_lost": pl.Int64,
}


def _sources_of(path: Path) -> list[Origin]:
    """Return model and source of a part's rows."""
    try:
        return [describe_part(path).origin]
    except KeyError:  # it has no footer of ours
        rows = scan_scores([path]).select("model", "seed", "source", "source_kind", "source_cells").unique().collect()
    found = []
    for model, seed, name, kind, cells in rows.iter_rows():
        variant = name.partition(VARIANT_MARK)[2]
        found.append(Origin(model, Source(kind, name, tuple(map(Cell.parse, (cells or "").split())), seed, variant)))
    return found


def _files(folder: Path) -> list[File]:
    """Return the parts in a folder as they are now, by name; some thousand of them in a few milliseconds."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".parquet"):
                with suppress(FileNotFoundError):  # moved aside meanwhile
                    stat = entry.stat()
                    found.append(File(entry.path, stat.st_mtime_ns, stat.st_size))
    return sorted(found)


def _rows(parts: Parts, keys: Sequence[Key]) -> pl.LazyFrame:
    """Return the rows of some sources of one model; the seed of the base is -1."""
    files = sorted({file for key in keys for file in parts.get(key, ())})
    rows = scan_scores([Path(file.path) for file in files]).with_columns(GAIN, pl.col("seed").fill_null(-1))
    if not any(file.is_mixed for file in files):
        return rows
    wanted = pl.DataFrame(keys, schema={"model": pl.String, "source": pl.String, "seed": pl.Int64}, orient="row")
    return rows.join(wanted.lazy(), on=wanted.columns, how="semi", maintain_order="left")


def _beside_base(parts: Parts, keys: Sequence[Key], filters: pl.Expr | bool = True) -> pl.LazyFrame:
    """Return the rows of some sources of one model with the base's value and gold of the same item."""
    base = _rows(parts, [_base(keys[0].model)]).filter(filters)
    again = pl.struct(ITEM).is_duplicated()
    ours = base.select(*ITEM, base_gain="gain", base_gold="gold", base_again=again).with_row_index("base_row")
    return _rows(parts, keys).filter(filters).join(ours, on=ITEM)


def _stopped(parts: Sequence[tuple[Key, tuple[File, ...]]]) -> frozenset[tuple[str, int, Cell]]:
    found = []
    for file in {file for _, files in parts for file in files}:
        with suppress(KeyError):  # it has no footer of ours
            found.append(describe_part(Path(file.path)))
    sliced = Scan(tuple(part for part in found if any(cell.start is not None for cell in part.cells)))
    cells = ((origin.source, target) for (origin, target), cell in sliced.cells().items() if cell.is_short)
    return frozenset((source.name, -1 if source.seed is None else source.seed, target) for source, target in cells)


def _summarise(parts: Sequence[tuple[Key, tuple[File, ...]]], partial: frozenset[tuple[str, str]]) -> pl.DataFrame:
    keys = [key for key, _ in parts if key.source != BASELINE_NAME]
    if not keys:
        return pl.DataFrame(schema=SUMMARY_SCHEMA)
    pair = ("source", "seed", "target_task", "target_language")
    change, difference = pl.col("gain") - pl.col("base_gain"), pl.col("difference")
    both = common_rows(_beside_base(dict(parts), keys), partial).select(
        *pair,
        "base_row",
        difference=change,
        base=pl.when(change.is_not_null()).then("base_gain"),
        gained=change > 0,
        lost=change < 0,
        other=pl.col("gold") != pl.col("base_gold"),
        again="base_again",
    )  # once a row, then summed: half of the time
    table = both.group_by(pair).agg(
        n_items=difference.count().cast(pl.Int64),
        base_score=pl.col("base").mean().abs(),
        delta_pp=100 * difference.mean(),
        n_gained=pl.col("gained").sum().cast(pl.Int64),
        n_lost=pl.col("lost").sum().cast(pl.Int64),
        repeated=(pl.col("base_row").n_unique() < pl.len()) | pl.col("again").any(),
        other=pl.col("other").sum(),
    )
    found = table.collect(engine="streaming").sort(pair)
    _refuse(found)
    return found.select(SUMMARY_SCHEMA.keys())


def _refuse(counted: pl.DataFrame) -> None:
    """Refuse what `grid analyze` refuses: items that stand there twice, and two golds of one item."""
    for column, why in (("repeated", "has an item twice"), ("other", "has other golds than the base")):
        if names := counted.filter(pl.col(column) > 0)["source"].unique().sort().to_list():
            raise UserError(
                f"the store {why} under {names[0]!r}; 'grid analyze' names it, 'grid eval --force' scores it again"
            )


def _score_base(model: str, files: tuple[File, ...]) -> pl.DataFrame:
    by_target = (
        _rows({_base(model): files}, [_base(model)])
        .group_by("target_task", "target_language")
        .agg(n_items=pl.col("gain").count().cast(pl.Int64), base_score=pl.col("gain").mean().abs())
    )
    return by_target.sort("target_task", "target_language").select(pl.lit(model).alias("model"), pl.all()).collect()


def _change(difference: pl.Expr) -> pl.Expr:
    changed = pl.when(difference > 0).then(pl.lit("gained")).when(difference < 0).then(pl.lit("lost"))
    return pl.when(difference.is_null()).then(pl.lit("unscored")).otherwise(changed.otherwise(pl.lit("same")))
