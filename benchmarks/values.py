"""Remarks on values of rows that are not text, or look like missing values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transfergrid.benchmarks.tasks import Row, Task

_READS_AS_MISSING = ("nan", "NaN", "NAN", "NaT", "<NA>", "None", "null", "NULL", "inf", "Infinity")
"""What programs write as text for a missing value."""


def remark_values(task: Task, rows: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Return remarks: where numbers and dates stand for text, and where text looks like a missing value."""
    remarks = []
    for column in task.text_columns:
        values = [
            (name, row, value) for name, each in rows.items() for row in each for value in _single(row.get(column))
        ]
        odd = [found for found in values if not isinstance(found[2], str | dict)]
        remarks += _said(task, column, odd, "holds {kind} where text is read", "which reads as {text!r}")
        missing = [found for found in values if isinstance(found[2], str) and found[2].strip() in _READS_AS_MISSING]
        remarks += _said(task, column, missing, "holds words for a missing value", "which is read as this text")
    return remarks


def unusable_column(task: Task, row: Row) -> str | None:
    """Return the first column that should become text and holds bytes."""
    return next(
        (name for name in task.text_columns if any(isinstance(each, bytes) for each in _single(row.get(name)))), None
    )


def _said(task: Task, column: str, found: Sequence[tuple[str, Row, Any]], what: str, so: str) -> list[str]:
    if not found:
        return []
    name, row, value = found[0]
    what, so = what.format(kind=type(value).__name__), so.format(text=str(value))
    count = f"{len(found):,} {'value' if len(found) == 1 else 'values'}"
    item = str(row.get(task.id_column))
    return [f"{task.name}: column {column!r} {what} ({count}), for example {value!r} in item {item!r} of {name}, {so}"]


def _single(value: Any) -> Iterator[Any]:
    """Give the values in a value of a row, without those that are missing."""
    if isinstance(value, list):
        for each in value:
            yield from _single(each)
    elif value is not None:
        yield value
