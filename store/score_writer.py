"""Stores finished cells in the background, so that storing overlaps scoring."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import polars as pl

from transfergrid.store.score_store import CellRecord, Origin, unwritable

FLUSH_AFTER_S = 20.0
"""A finished cell waits at most this long for others of its source before it is written."""


@dataclass(frozen=True, slots=True)
class ScoredCell:
    """A finished cell on its way to the store."""

    origin: Origin
    key_parts: Mapping[str, Any]
    record: CellRecord
    make_rows: Callable[[], pl.DataFrame]
    """Builds the rows; called in the writer's thread."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Value of every item; None: not scored."""


class PartWriter(Protocol):
    """Takes whole parts: the store, or a worker that sends them to it."""

    @property
    def folder(self) -> Path:
        """Folder of the store, for messages."""

    def write(
        self, origin: Origin, key_parts: Mapping[str, Any], cells: Sequence[CellRecord], rows: pl.DataFrame
    ) -> object:
        """Take one part."""


class StoreWriter:
    """Collects finished cells and writes those of one source as parts.

    Use as a context manager; leaving it writes what is left, also after an error or an interrupt.
    """

    def __init__(self, store: PartWriter, *, flush_after_s: float = FLUSH_AFTER_S) -> None:
        self._store = store
        self._flush_after_s = flush_after_s
        self._queue: queue.SimpleQueue[ScoredCell | None] = queue.SimpleQueue()
        self._pending: list[ScoredCell] = []
        self._oldest_s = 0.0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def __enter__(self) -> StoreWriter:
        """Start the writer."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is left; a failed write is raised unless another error is on its way."""
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise_failure()

    def submit(self, cell: ScoredCell) -> None:
        """Hand over a finished cell; returns at once.

        Raises:
            StoreError: If an earlier part could not be written.
        """
        self._raise_failure()
        self._queue.put(cell)

    def _raise_failure(self) -> None:
        if isinstance(self._error, OSError):
            raise unwritable(self._store.folder, self._error) from self._error
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (cell := self._next()) is not None:
                self._take(cell)
            self._flush()
        except Exception as error:  # raised again in the scoring thread
            self._error = error

    def _next(self) -> ScoredCell | None:
        """Return the next cell; flush while waiting once the oldest pending cell is old enough."""
        if self._pending:
            try:
                return self._queue.get(timeout=max(0.0, self._oldest_s + self._flush_after_s - time.monotonic()))
            except queue.Empty:
                self._flush()
        return self._queue.get()

    def _take(self, cell: ScoredCell) -> None:
        if self._pending and self._pending[0].origin != cell.origin:
            self._flush()
        if not self._pending:
            self._oldest_s = time.monotonic()
        self._pending.append(cell)
        if time.monotonic() - self._oldest_s >= self._flush_after_s:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        cells, self._pending = self._pending, []
        rows = pl.concat([cell.make_rows() for cell in cells])
        self._store.write(cells[0].origin, cells[0].key_parts, [cell.record for cell in cells], rows)
