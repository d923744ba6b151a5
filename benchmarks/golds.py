"""Golds that are numbers: all rows of a task together show whether they count from 0 or from 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from transfergrid.benchmarks.tasks import LETTERS, Row, Task, gold_number

Rows = list[dict[str, Any]]


class Golds(NamedTuple):
    """What the numbers in a gold column mean."""

    rows: Mapping[str, Rows]
    """Rows by the name of their file; numbers that count from 1 are letters now."""
    remark: str | None = None
    fault: str | None = None


def settle_golds(task: Task, rows: Mapping[str, Rows]) -> Golds:
    """Find out from where the numbers in a task's gold column count.

    A 0 anywhere proves that they count from 0. Without any 0 they count from 1 where a number is the count of its row's
    choices, or where they are digits among letters, as in ARC's keys ``A``..``D`` and ``1``..``4``. Anything else is a
    fault: a guess would shift every gold by one.
    """
    column = task.spec.gold
    numbers = [
        (row, number) for each in rows.values() for row in each if (number := gold_number(row.get(column))) is not None
    ]
    if not numbers or any(number == 0 for _, number in numbers):
        return Golds(rows)
    found = {number for _, number in numbers}
    said = f"{task.name}: {len(numbers)} golds in column {column!r} are numbers from {min(found)} to {max(found)}"
    if max(found) <= len(LETTERS) and (_are_digits_among_letters(column, rows) or _proves_one(task, numbers)):
        lettered = {name: [_with_letter(row, column) for row in each] for name, each in rows.items()}
        return Golds(lettered, remark=f"{said} and 0 never occurs: they are read as counting from 1")
    return Golds(
        rows,
        fault=f"{said} and 0 never occurs, so that they may count from 0 or from 1; write letters (A, B, ...) instead",
    )


def _are_digits_among_letters(column: str, rows: Mapping[str, Rows]) -> bool:
    values = [row.get(column) for each in rows.values() for row in each]
    return all(isinstance(value, str) for value in values) and any(gold_number(value) is None for value in values)


def _proves_one(task: Task, numbers: list[tuple[dict[str, Any], int]]) -> bool:
    """Whether some number is the count of its row's choices and none is more."""
    counts = [(number, count) for row, number in numbers for count in _n_choices(task, row)]
    return any(number == count for number, count in counts) and all(number <= count for number, count in counts)


def _n_choices(task: Task, row: Row) -> Iterator[int]:
    """Give the count of a row's choices without blank ones at the end; nothing where they cannot be read."""
    try:
        options = task.render_choices(row)
    except Exception:  # reported when the row becomes a question
        return
    while options and not options[-1].strip():
        options.pop()
    yield len(options)


def _with_letter(row: dict[str, Any], column: str) -> dict[str, Any]:
    number = gold_number(row.get(column))
    return row if number is None else {**row, column: LETTERS[number - 1]}
