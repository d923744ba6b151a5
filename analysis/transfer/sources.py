"""The sources in the transfer tables: kind, cells, and whether a single-source table takes them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from transfergrid.analysis.records import IS_SINGLE, ItemBlock
from transfergrid.grid import MERGE_KIND, TASKS, VARIANT_KIND, Cell, Source, UserError
from transfergrid.store.folder import RECORD_FILE, RunFolder
from transfergrid.store.json_text import JsonError, header_shapes, read_json
from transfergrid.store.scores import SOURCE_COLUMNS, source_columns

_SCHEMA = pl.Schema(dict.fromkeys(("source_task", "source_language", *SOURCE_COLUMNS), pl.String()))


def read_sources(scores: pl.LazyFrame, names: Iterable[str]) -> pl.DataFrame:
    """Return one row per source: `SOURCE_COLUMNS`, and task and language of single-cell adapters.

    Args:
        scores: Item rows in SCORE_SCHEMA; read only for names that are not those of a cell of a built-in task.
        names: Names of sources, without the base.

    Raises:
        UserError: If one name stands for two kinds of source, or for other cells in another part.
    """
    plain, others = {}, []
    for name in sorted(set(names)):
        try:
            cell = Cell.parse(name)
            plain[name] = source_columns(Source.of(cell))
            is_known = cell.task in TASKS
        except UserError:
            is_known = False
        if not is_known:  # a mixture may be named like a cell of an unknown task
            others.append(name)
    if not others:
        return pl.DataFrame(list(plain.values()), schema=_SCHEMA)
    found = scores.filter(pl.col("source").is_in(others)).select(_SCHEMA.names()).unique().collect().sort(pl.all())
    repeated = found.filter(pl.col("source").is_duplicated())
    if repeated.height:
        first, second = repeated.head(2).select("source_kind", "source_cells").rows()
        raise UserError(
            f"source {repeated['source'][0]!r} is {first[0]!r} of {first[1]!r} in one part of the store and "
            f"{second[0]!r} of {second[1]!r} in another; score them under two names"
        )
    stored = set(found["source"])
    return pl.concat([pl.DataFrame([row for name, row in plain.items() if name not in stored], schema=_SCHEMA), found])


def single_blocks(blocks: Iterable[ItemBlock], sources: pl.DataFrame) -> tuple[ItemBlock, ...]:
    """Return the blocks with the rows of single-cell adapters only, and with these cells in their keys."""
    cells = sources.select("source", "source_task", "source_language")
    kept = []
    for block in blocks:
        keys = block.keys.join(cells, on="source", how="left", maintain_order="left", validate="m:1")
        single = keys.select(IS_SINGLE).to_series().to_numpy()
        if single.all():
            kept.append(ItemBlock(block.task, keys, block.item_ids, block.differences, block.scored))
        elif single.any():
            differences, scored = block.differences[single], block.scored[single]
            kept.append(ItemBlock(block.task, keys.filter(single), block.item_ids, differences, scored))
    return tuple(kept)


def with_methods(sources: pl.DataFrame, run: RunFolder) -> pl.DataFrame:
    """Return kind, cells and, of merges, the method of every source, as a record in the run folder has it."""
    names = sources.filter(pl.col("source_kind") == MERGE_KIND)["source"]
    methods = {name: _method(path) for name in names for path in run.adapters.glob(f"*/*/{name}/{RECORD_FILE}")}
    method = pl.col("source").replace_strict(methods, default=None, return_dtype=pl.String)
    return sources.select(*SOURCE_COLUMNS, method=method)


def read_trainings(sources: pl.DataFrame, run: RunFolder) -> pl.DataFrame:
    """Return by model and source what its training cost where there are variants: ``n_weights`` and ``train_s``.

    Seconds are a mean over seeds, divided by the adapters that were trained in one pass. Adapters without a record in
    the run folder are left out.
    """
    has_variants = VARIANT_KIND in sources["source_kind"]
    paths = run.adapters.glob(f"*/s*/*/{RECORD_FILE}") if has_variants else ()
    rows = [row for path in sorted(paths) if (row := _training(path)) is not None]
    schema = {"model": pl.String, "source": pl.String, "n_weights": pl.Int64, "train_s": pl.Float64}
    found = pl.DataFrame(rows, schema=schema, orient="row")
    return found.group_by("model", "source").agg(pl.col("n_weights").max(), pl.col("train_s").mean())


def _training(path: Path) -> tuple[str, str, int, float] | None:
    """Return model, source, weights and seconds of a training; None for a merge, or where its files do not say it."""
    folder = path.parent
    try:
        record = read_json(path)
        seconds = record["train_s"] / record["resolved"].get("adapters_at_once", 1)
        shapes = [shape for file in folder.glob("*.safetensors") for shape in header_shapes(file).values()]
    except (JsonError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return folder.parts[-3], folder.name, sum(map(math.prod, shapes)), float(seconds)


def _method(path: Path) -> str | None:
    """Return a merge's method; None where the record does not say it."""
    try:
        match read_json(path):
            case {"key": {"merge": {"method": str(method)}}}:
                return method
    except JsonError:
        pass
    return None
