"""The results store: immutable Parquet parts, each with some finished cells of one source.

A part is named ``MODEL.sSEED.SOURCE.CHECKSUM.parquet`` (``MODEL.base.CHECKSUM.parquet`` for the base). Its footer says
which cells it holds and what decided their numbers, so that a scan reads no rows. A part is written under a temporary
name, flushed and renamed; it is never changed, only moved to ``aside/``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from transfergrid.grid import Cell, Source, UserError
from transfergrid.store.adaptive import Joined, join_slices
from transfergrid.store.counts import CellRecord as CellRecord
from transfergrid.store.file_index import FileIndex
from transfergrid.store.files import FOOTER_KEY
from transfergrid.store.scores import SCORE_SCHEMA, UNREADABLE, content_checksum, scan_scores, write_named

ASIDE = "aside"
"""Folder of parts that no longer count."""
INDEX_FILE = "index.json"
"""Cache of what parts and other files of a sweep hold; may be deleted."""


class StoreError(UserError):
    """A part that cannot be read, or a store that cannot be written."""


def unwritable(folder: Path, error: OSError) -> StoreError:
    """Return the error for a store that cannot be written: disk full, no permission."""
    return StoreError(
        f"scores cannot be stored in {str(folder)!r}: {error.strerror or error}; make room or give write access, "
        "then run the same command again"
    )


class Origin(NamedTuple):
    """What was scored: one source of one model, under one training seed."""

    model: str
    """The configuration's name of the base model."""
    source: Source

    @property
    def seed(self) -> int | None:
        """Training seed; None is the base, which has none."""
        return self.source.seed

    @property
    def name(self) -> str:
        """The origin's name in files and messages."""
        return f"{self.model}.{self.source}" if self.seed is None else f"{self.model}.s{self.seed}.{self.source}"

    def __str__(self) -> str:
        """Return model, seed and source for messages."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"model {self.model!r}{seed}, source {self.source.name!r}"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the store."""

    path: Path
    origin: Origin
    key_parts: Mapping[str, Any]
    """What decided the numbers, without the items."""
    cells: tuple[CellRecord, ...]


class StoredCell(NamedTuple):
    """What the store has of a cell: all of it, or the slices from its first item on."""

    slices: tuple[tuple[Part, CellRecord], ...]
    """In the order of the items."""

    @property
    def part(self) -> Part:
        """The first part; all of them have the same key."""
        return self.slices[0][0]

    @property
    def record(self) -> CellRecord:
        """The first record."""
        return self.slices[0][1]

    @property
    def n_items(self) -> int:
        """Items that are stored."""
        return sum(record.n_items for _, record in self.slices)

    @property
    def n_planned(self) -> int:
        """Items that were to be stored, unless the pair was stopped."""
        return max(record.n_planned or record.n_items for _, record in self.slices)

    @property
    def is_short(self) -> bool:
        """Whether the pair was stopped, or has items left to score."""
        return self.n_items < self.n_planned

    @property
    def is_whole(self) -> bool:
        """Whether no item is missing."""
        return self.record.n_all is None or self.n_items >= self.record.n_all


class Scan(NamedTuple):
    """What a store holds."""

    parts: tuple[Part, ...]
    set_aside: tuple[tuple[Path, str], ...] = ()
    """Parts that were moved aside because they are not whole, with the reason."""

    def cells(self) -> dict[tuple[Origin, Cell], StoredCell]:
        """Return the cells, whole or not; of items that stand in two parts, those in the first."""
        return {pair: StoredCell(tuple(joined.fitting)) for pair, joined in _join(self.parts).items() if joined.fitting}

    def finished(self) -> dict[tuple[Origin, Cell], StoredCell]:
        """Return the whole cells."""
        return {pair: cell for pair, cell in self.cells().items() if cell.is_whole}


def _join(parts: Iterable[Part]) -> dict[tuple[Origin, Cell], Joined[tuple[Part, CellRecord]]]:
    """Return per cell the slices that follow each other from the first item on, and the others."""
    found: dict[tuple[Origin, Cell], list[tuple[Part, CellRecord]]] = {}
    for part in parts:
        for record in part.cells:
            found.setdefault((part.origin, Cell.parse(record.target)), []).append((part, record))
    return {
        pair: join_slices(slices, lambda each: (each[1].start or 0, each[1].n_items)) for pair, slices in found.items()
    }


class ScoreStore:
    """Reads, writes and sets aside parts in one folder; one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = FileIndex(folder / INDEX_FILE)
        self._parts: dict[Path, Part] = {}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts by name: those of the last scan, with what this object wrote and without what it evicted."""
        return tuple(self._parts[path] for path in sorted(self._parts))

    def cells(self) -> dict[tuple[Origin, Cell], StoredCell]:
        """Return the cells of these parts, whole or not."""
        return Scan(self.parts).cells()

    def finished(self) -> dict[tuple[Origin, Cell], StoredCell]:
        """Return the whole cells of these parts."""
        return Scan(self.parts).finished()

    def scan(self, *, repair: bool = True) -> Scan:
        """Read the footers of all parts; a part that has not changed since an earlier scan is not read again.

        Args:
            repair: Move parts that are not whole, and items that stand in two parts, aside. Without it they are
                left out and left alone, for readers that do not hold the run folder.
        """
        self._parts = {}
        broken: list[tuple[Path, str]] = []
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                footer = self.index.look_up(path, [path], partial(_read_footer, path))
                self._parts[path] = _part(path, footer)
            except StoreError as error:
                broken.append((path, str(error)))
        if repair:
            for path in self.folder.glob(".*.tmp"):
                path.unlink()
            for path, _ in broken:
                self._move_aside(path)
            self._evict_repeats()
        return Scan(self.parts, tuple(broken))

    def write(
        self, origin: Origin, key_parts: Mapping[str, Any], cells: Sequence[CellRecord], rows: pl.DataFrame
    ) -> Part:
        """Write one part.

        Raises:
            OSError: If the folder cannot be written or the disk is full; no part is left behind.
            StoreError: If the rows have other columns.
        """
        if rows.schema != SCORE_SCHEMA:
            raise StoreError(f"rows have the columns {rows.schema}; expected {SCORE_SCHEMA}")
        footer = {
            "origin": [origin.model, origin.seed, origin.source.name],
            "source": {**asdict(origin.source), "cells": [cell.name for cell in origin.source.cells]},
            "key_parts": key_parts,
            "cells": [asdict(cell) for cell in cells],
        }
        path = write_named(self.folder, origin.name, rows, {FOOTER_KEY: json.dumps(footer)})
        self._parts[path] = Part(path, origin, key_parts, tuple(cells))
        return self._parts[path]

    def evict(self, part: Part, targets: Collection[str]) -> Part | None:
        """Move a part aside and write its other cells anew.

        The part is moved first: a kill in between leaves cells to score again, never cells that are there twice.

        Returns:
            The part with the other cells, None if there are none.
        """
        kept = [cell for cell in part.cells if cell.target not in targets]
        rows = scan_scores([part.path]).collect() if kept else None
        self._move_aside(part.path)
        self._parts.pop(part.path, None)
        if rows is None:
            return None
        name = pl.concat_str("target_task", "target_language", separator="-")
        kept_rows = rows.filter(name.is_in([cell.target for cell in kept]))
        return self.write(part.origin, part.key_parts, kept, kept_rows)

    def _evict_repeats(self) -> None:
        """Evict items that stand in another part too, and slices before which one is missing."""
        while others := [each for joined in _join(self.parts).values() for each in joined.others]:
            part = others[0][0]
            self.evict(part, {record.target for other, record in others if other is part})

    def _move_aside(self, path: Path) -> None:
        folder = self.folder / ASIDE
        folder.mkdir(exist_ok=True)
        target = folder / path.name
        count = 1
        while target.exists():
            target = folder / f"{path.name}.{count}"
            count += 1
        path.rename(target)


def read_footers(folder: Path) -> tuple[list[Part], list[str]]:
    """Return what the footers of all parts say, contents unchecked and not read, and the parts without a sound one."""
    parts, broken = [], []
    for path in sorted(folder.glob("*.parquet")):
        try:
            parts.append(describe_part(path))
        except FileNotFoundError:  # a sweep moved it aside meanwhile
            continue
        except (*UNREADABLE, ValueError, KeyError, StoreError):
            broken.append(path.name)
    return parts, broken


def describe_part(path: Path) -> Part:
    """Return what a part's footer says, its content not read; KeyError: it has none of ours, StoreError: unusable."""
    return _described(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8192)
def _described(path: Path, _changed_ns: int) -> Part:
    return _part(path, json.loads(pl.read_parquet_metadata(path)[FOOTER_KEY]))


def _read_footer(path: Path) -> Any:
    """Return a part's footer, once its content is that of the checksum in its name."""
    try:
        content = path.read_bytes()
        if path.name.split(".")[-2:-1] != [content_checksum(content)]:
            raise StoreError(f"part {path.name!r} does not have the content that its name says")
        return json.loads(pl.read_parquet_metadata(io.BytesIO(content))[FOOTER_KEY])
    except StoreError:
        raise
    except PermissionError as error:  # the part may be sound, and is not to be moved aside
        raise UserError(f"part {path.name!r} cannot be read: {error.strerror}; give read access to it") from error
    except (*UNREADABLE, ValueError, KeyError) as error:
        raise StoreError(f"part {path.name!r} cannot be read: {error}") from error


def _part(path: Path, footer: Any) -> Part:
    try:
        model, seed, name = footer["origin"]
        recorded = footer.get("source")  # older parts have only the base and single-cell adapters
        source = (
            Source(**{**recorded, "cells": tuple(map(Cell.parse, recorded["cells"]))})
            if recorded
            else Source.parse(name, seed)
        )
        cells = tuple(CellRecord(**cell) for cell in footer["cells"])
        return Part(path, Origin(model, source), footer["key_parts"], cells)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StoreError(f"part {path.name!r} cannot be read: {error}") from error
