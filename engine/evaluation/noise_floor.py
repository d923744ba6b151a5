"""The resolution of every delta: how many predictions change when only the order of the arithmetic changes.

The base is scored a second time through an adapter with B = 0, with the items in reverse order and in smaller steps,
and compared with its scores in the store.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from transfergrid.benchmarks.metrics import METRICS, get_metric
from transfergrid.benchmarks.spec import CHOICE_MODE
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.null import NULL_RANK, make_null_adapter
from transfergrid.engine.evaluation.asking import prepare_items, score_items
from transfergrid.engine.interfaces import Adapter, Scorer
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.work.base_model import ScoredBase
from transfergrid.engine.work.cells import CellItems, TokenisedCell
from transfergrid.grid import BASE, Cell
from transfergrid.store.folder import RunFolder
from transfergrid.store.noise_floor import (
    NOISE_FLOOR_SCHEMA,
    drop_noise_floor,
    read_noise_floor_file,
    write_noise_floor,
)
from transfergrid.store.score_store import Origin, StoredCell


def has_noise_floor(run: RunFolder, base: ScoredBase, targets: Iterable[CellItems]) -> bool:
    """Whether the noise floor of all targets with choices is stored for what decides the base's numbers today."""
    _, stored = read_noise_floor_file(run, base.name)
    key = base.key(None)
    asked = (target for target in targets if target.mode == CHOICE_MODE)
    return all(stored.get(target.cell.name) == key.digest(target.items_hash) for target in asked)


def drop_stale_noise_floor(
    run: RunFolder, base: ScoredBase, targets: Iterable[CellItems], finished: Mapping[tuple[Origin, Cell], StoredCell]
) -> int:
    """Drop rows that were measured with another setup than that of the base's stored scores, or today's.

    Of targets that are not asked for, the scores in the store decide.

    Returns:
        Number of targets whose rows were dropped.
    """
    table, stored = read_noise_floor_file(run, base.name)
    kept, keys = _current(table, stored, _valid_keys(base, targets, finished))
    n_dropped = table.height - kept.height
    if n_dropped and kept.height:
        write_noise_floor(run, base.name, kept, keys)
    elif n_dropped:
        drop_noise_floor(run, base.name)
    return n_dropped


def measure_noise_floor(
    run: RunFolder,
    base: ScoredBase,
    targets: Mapping[Cell, TokenisedCell],
    scorer: Scorer,
    *,
    finished: Mapping[tuple[Origin, Cell], StoredCell],
) -> pl.DataFrame:
    """Score the base again and store the flips of every target whose base scores are in the store.

    Returns:
        The stored table, with earlier targets whose key is still today's.

    Raises:
        AdapterError: If no null adapter can be made for this base.
    """
    origin = Origin(base.name, BASE)
    valid = _valid_keys(base, (target.asked for target in targets.values()), finished)
    earlier, keys = _current(*read_noise_floor_file(run, base.name), valid)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        null = check_adapter(
            make_null_adapter(base.folder, Path(folder) / "null", rank=NULL_RANK),
            read_linear_shapes(base.folder),
            name=f"null-{base.name}",
        )
        for cell, target in targets.items():
            if (origin, cell) in finished and target.asked.mode == CHOICE_MODE:
                stored = _stored_sums(finished[origin, cell], cell)
                rows.append(_compare(base.name, target, stored, _score_again(scorer, target, null)))
                keys[cell.name] = base.key(None).digest(target.asked.items_hash)
    frame = pl.DataFrame(rows, schema=NOISE_FLOOR_SCHEMA, orient="row")
    kept = earlier.join(frame, on=["model", "target_task", "target_language"], how="anti")
    table = pl.concat([kept, frame]).sort("target_task", "target_language")
    write_noise_floor(run, base.name, table, keys)
    return table


def _score_again(scorer: Scorer, target: TokenisedCell, null: Adapter) -> dict[str, tuple[float, ...]]:
    """Return the log-likelihoods by item id."""
    items = target.scorable[::-1]
    if not items:
        return {}
    prepared = prepare_items(scorer, items, halve_steps=True)
    return {items[result.index].item_id: result.loglikelihoods_nats for result in score_items(scorer, prepared, null)}


def _stored_sums(cell: StoredCell, target: Cell) -> dict[str, tuple[float, ...]]:
    rows = pl.concat([pl.read_parquet(path) for path in {part.path for part, _ in cell.slices}]).filter(
        pl.col("target_task") == target.task,
        pl.col("target_language") == target.language,
        pl.col("loglikelihoods_nats").is_not_null(),
    )
    return {item_id: tuple(sums) for item_id, sums in rows.select("item_id", "loglikelihoods_nats").iter_rows()}


def _compare(
    model: str,
    target: TokenisedCell,
    first: Mapping[str, tuple[float, ...]],
    second: Mapping[str, tuple[float, ...]],
) -> tuple[Any, ...]:
    """Return one row of the table, over the items that are scored both times."""
    items = {item.item_id: item for item in target.asked.items}
    both = [i for i in first if i in second and all(map(math.isfinite, second[i]))]
    flips, flips_acc = (
        [metric.pick(first[i], items[i].choices) != metric.pick(second[i], items[i].choices) for i in both]
        for metric in (get_metric(target.asked.primary_metric), METRICS["acc"])
    )
    largest = max((abs(a - b) for i in both for a, b in zip(first[i], second[i], strict=True)), default=0.0)
    cell = target.asked.cell
    return model, cell.task, cell.language, len(both), sum(flips), sum(flips_acc), largest


def _valid_keys(
    base: ScoredBase, targets: Iterable[CellItems], finished: Mapping[tuple[Origin, Cell], StoredCell]
) -> dict[str, set[str]]:
    """Return by target the keys that a noise floor may have: that of the base's stored scores, and today's."""
    valid: dict[str, set[str]] = {}
    for (origin, cell), found in finished.items():
        if origin == Origin(base.name, BASE):
            valid.setdefault(cell.name, set()).add(found.record.run_key)
    for target in targets:
        valid.setdefault(target.cell.name, set()).add(base.key(None).digest(target.items_hash))
    return valid


def _current(
    table: pl.DataFrame, keys: Mapping[str, str], valid: Mapping[str, set[str]]
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the rows of a table, and their keys, whose key is valid."""
    kept = {name: key for name, key in keys.items() if key in valid.get(name, ())}
    name = pl.concat_str("target_task", "target_language", separator="-")
    return table.filter(name.is_in(list(kept))), kept
