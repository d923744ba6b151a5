"""Item rows of a run, found by the footers of its parts and read only as far as a page needs them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from transfergrid.benchmarks.metrics import lower_is_better
from transfergrid.grid import BASELINE_NAME, CELL_KIND
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import StoreError, describe_part
from transfergrid.store.scores import UNREADABLE, scan_scores, score_parts

GAIN = (
    pl.when(pl.col("unscored_reason").is_null())
    .then(pl.when(pl.col("primary_metric").is_in(lower_is_better())).then(-pl.col("value")).otherwise("value"))
    .alias("gain")
)
"""The value by the target's metric, higher is better; null: not scored."""
ITEM = ("target_task", "target_language", "item_id")
"""Key of an item in one language."""
_KEEPS_SUMMARIES = 20_000


class Key(NamedTuple):
    """One source of one model under one training seed; the base has seed -1."""

    model: str
    source: str
    seed: int


class ItemRows:
    """The rows of a run by model, source and seed; safe to use from several threads."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._keys: dict[Path, list[Key]] = {}
        self._summaries: dict[tuple[Key, tuple[Path, ...]], pl.DataFrame] = {}
        self._lock = threading.Lock()
        self.single: set[tuple[str, str]] = set()
        """Model and name of the sources that are a usual adapter of one cell; only these stand in a matrix."""
        self.unreadable: set[str] = set()
        """Names of parts that cannot be read."""

    def parts(self) -> dict[Key, tuple[Path, ...]]:
        """Return the files of every source, those that came since the last call among them."""
        with self._lock:
            there = score_parts(self._run)
            new = [path for path in there if path not in self._keys]
            with ThreadPoolExecutor(2) as pool:
                for path, keys in zip(new, pool.map(self._keys_of, new), strict=True):
                    self._keys[path] = keys
            found: dict[Key, list[Path]] = {}
            for path in there:
                for key in self._keys[path]:
                    found.setdefault(key, []).append(path)
        return {key: tuple(found[key]) for key in sorted(found)}

    def _keys_of(self, path: Path) -> list[Key]:
        try:
            rows = _sources_of(path)
        except (*UNREADABLE, ValueError, KeyError, StoreError):
            self.unreadable.add(path.name)
            return []
        self.single |= {(model, source) for model, _, source, is_single in rows if is_single}
        return [Key(model, source, -1 if seed is None else seed) for model, seed, source, _ in rows]

    def rows(self, key: Key, filters: pl.Expr | None = None) -> pl.DataFrame:
        """Return the rows of one source; none where it has no part."""
        paths = self.parts().get(key, ())
        return self._read(key, paths, filters)

    def _read(self, key: Key, paths: tuple[Path, ...], filters: pl.Expr | None = None) -> pl.DataFrame:
        frame = _scan(key, paths).filter(True if filters is None else filters).collect()
        return frame.unique(ITEM, keep="first", maintain_order=True).with_columns(GAIN)

    def paired(self, key: Key, filters: pl.Expr | None = None) -> pl.DataFrame:
        """Return the base's rows with what the source says of the same items: its columns end in ``_source``.

        ``change`` is ``gained``, ``lost``, ``same`` or ``unscored``: of the value by the target's metric.
        """
        parts = self.parts()
        base = Key(key.model, BASELINE_NAME, -1)
        theirs = self._read(key, parts.get(key, ()), filters)
        ours = self._read(base, parts.get(base, ()), filters)
        both = ours.join(theirs, on=list(ITEM), how="inner", suffix="_source", maintain_order="left", validate="1:1")
        return both.with_columns(change=_change(pl.col("gain_source") - pl.col("gain")))

    def summaries(self, model: str, only: Key | None = None) -> pl.DataFrame:
        """Return one row per (source, seed, target) of a model, or of one source: items, base score, delta, changes.

        Deltas are over the items that both scored; a part's are computed once and kept in memory.
        """
        parts = self.parts()
        base = Key(model, BASELINE_NAME, -1)
        keys = [key for key in parts if key.model == model and key.source != BASELINE_NAME and only in (None, key)]
        missing = [key for key in keys if (key, parts[key]) not in self._summaries]
        if missing and base in parts:
            ours = self._slim(base, parts[base]).rename({"gain": "base_gain"})
            with ThreadPoolExecutor(2) as pool:
                found = pool.map(lambda key: _summary(ours, self._slim(key, parts[key])), missing)
                for key, table in zip(missing, found, strict=True):
                    self._summaries[key, parts[key]] = table
            while len(self._summaries) > _KEEPS_SUMMARIES:
                self._summaries.pop(next(iter(self._summaries)))
        tables = [
            self._summaries[key, parts[key]].select(
                pl.lit(key.source).alias("source"), pl.lit(key.seed, dtype=pl.Int64).alias("seed"), pl.all()
            )
            for key in keys
            if (key, parts[key]) in self._summaries
        ]
        return pl.concat(tables) if tables else pl.DataFrame(schema=SUMMARY_SCHEMA)

    def base_scores(self, model: str) -> pl.DataFrame:
        """Return the base's score on every target of a model."""
        base = Key(model, BASELINE_NAME, -1)
        paths = self.parts().get(base, ())
        if (base, paths) not in self._summaries:
            self._summaries[base, paths] = self._base_scores(base, paths)
        return self._summaries[base, paths]

    def _base_scores(self, base: Key, paths: tuple[Path, ...]) -> pl.DataFrame:
        rows = self._slim(base, paths)
        by_target = rows.group_by("target_task", "target_language").agg(
            n_items=pl.col("gain").count().cast(pl.Int64), base_score=pl.col("gain").mean().abs()
        )
        return by_target.sort("target_task", "target_language").select(pl.lit(base.model).alias("model"), pl.all())

    def strip(self, key: Key, filters: pl.Expr) -> pl.DataFrame:
        """Return what every source of the model, under the key's seed, does to some items."""
        parts = self.parts()
        keys = [each for each in parts if each.model == key.model and each.seed == key.seed]
        base = self._read(Key(key.model, BASELINE_NAME, -1), parts.get(Key(key.model, BASELINE_NAME, -1), ()), filters)
        ours = base.select(*ITEM, base_gain="gain")

        def change(each: Key) -> pl.DataFrame:
            theirs = self._read(each, parts[each], filters).select(*ITEM, "gain", source=pl.lit(each.source))
            both = theirs.join(ours, on=list(ITEM), how="inner", validate="1:1")
            return both.with_columns(change=_change(pl.col("gain") - pl.col("base_gain")))

        with ThreadPoolExecutor(2) as pool:
            found = [table for table in pool.map(change, keys) if table.height]
        return pl.concat(found) if found else pl.DataFrame(schema=dict.fromkeys((*ITEM, "source", "change"), pl.String))

    def _slim(self, key: Key, paths: tuple[Path, ...]) -> pl.DataFrame:
        return _scan(key, paths).select(*ITEM, GAIN).collect().unique(ITEM, keep="first")


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


def _sources_of(path: Path) -> list[tuple[Any, ...]]:
    """Return model, seed and name of a part's sources, and whether each is a usual adapter of one cell."""
    try:
        model, source = describe_part(path).origin
    except KeyError:  # it has no footer of ours
        is_single = pl.col("source_task").is_not_null().alias("is_single")
        return scan_scores([path]).select("model", "seed", "source", is_single).unique().collect().rows()
    return [(model, source.seed, source.name, source.kind == CELL_KIND and not source.variant)]


def _scan(key: Key, paths: tuple[Path, ...]) -> pl.LazyFrame:
    """Return the rows of one source in its files."""
    seed = pl.col("seed").is_null() if key.seed < 0 else pl.col("seed") == key.seed
    return scan_scores(paths).filter((pl.col("model") == key.model) & (pl.col("source") == key.source) & seed)


def _change(difference: pl.Expr) -> pl.Expr:
    changed = pl.when(difference > 0).then(pl.lit("gained")).when(difference < 0).then(pl.lit("lost"))
    return pl.when(difference.is_null()).then(pl.lit("unscored")).otherwise(changed.otherwise(pl.lit("same")))


def _summary(base: pl.DataFrame, source: pl.DataFrame) -> pl.DataFrame:
    both = base.join(source, on=list(ITEM), how="inner")
    difference = pl.col("gain") - pl.col("base_gain")
    return (
        both.group_by("target_task", "target_language")
        .agg(
            n_items=difference.count().cast(pl.Int64),
            base_score=pl.col("base_gain").filter(difference.is_not_null()).mean().abs(),
            delta_pp=100 * difference.mean(),
            n_gained=(difference > 0).sum().cast(pl.Int64),
            n_lost=(difference < 0).sum().cast(pl.Int64),
        )
        .sort("target_task", "target_language")
    )
