"""The texts of items, from ``run/data``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from transfergrid.benchmarks.cells import load_items
from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.tasks import FormatName, get_task
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder


class Texts(NamedTuple):
    """The items of one cell; none where their texts are not there."""

    items: Mapping[str, Item]
    why_not: str | None
    """Why there are none."""

    def split_shared(self, context: str) -> tuple[str, str]:
        """Return the lines that every item starts with, such as worked examples, and the rest of an item's context."""
        contexts = [item.context for item in self.items.values()]
        shared = os.path.commonprefix(contexts) if len(contexts) > 1 else ""  # noqa: RUF071 characters are meant
        end = shared.rfind("\n") + 1
        return context[:end], context[end:]


class ItemTexts:
    """Reads the test items of cells; the last few cells stay in memory."""

    def __init__(self, run: RunFolder, config: GridConfig | None) -> None:
        self._data = run.data
        self._tasks = config.own_tasks if config is not None else {}
        self._format: FormatName = config.prompts.eval_format if config is not None else "eval"
        self._read = lru_cache(maxsize=64)(self._load)

    def cell(self, task: str, language: str) -> Texts:
        """Return the items of a cell by their ids."""
        path = self._data / task / language / "test.jsonl"
        try:
            return self._read(task, language, path.stat().st_mtime_ns)
        except OSError:
            return Texts({}, f"{str(path)!r} is not there; 'grid data' writes it")
        except UserError as error:
            return Texts({}, str(error))

    def _load(self, task: str, language: str, _changed_ns: int) -> Texts:
        items = load_items(self._data, get_task(task, self._tasks), language, "test", self._format)
        return Texts({item.item_id: item for item in items}, None)
