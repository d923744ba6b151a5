"""What could not be scored, and why: kept in the store until another attempt succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transfergrid.config.selection import Selection
from transfergrid.grid import UserError
from transfergrid.store.files import write_json
from transfergrid.store.json_text import JsonError, read_json

FAILURES_FILE = "failures.json"
NAMED_TOGETHER = 3
"""Sources that failed for the same reason and are named; more of them are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A model, source or cell that could not be scored."""

    model: str
    reason: str
    seed: int | None = None
    source: str | None = None
    """``base`` or ``task-lang``; None: the whole model."""
    target: str | None = None
    """``task-lang``; None: all targets of the source."""

    @property
    def what(self) -> str:
        """Name of what failed."""
        seed = "" if self.seed is None else f" s{self.seed}"
        source = "" if self.source is None else f" {self.source}"
        return f"{self.model}{seed}{source}" + ("" if self.target is None else f" on {self.target}")


def describe_failures(failures: Iterable[Failure]) -> list[str]:
    """Return a line for every failure; sources of one model and seed that failed for the same reason share one."""
    groups: dict[tuple[object, ...], list[Failure]] = {}
    for failure in failures:
        alone = None if failure.target is None and failure.source is not None else failure.what
        groups.setdefault((failure.model, failure.seed, failure.reason, alone), []).append(failure)
    lines: list[str] = []
    for group in groups.values():
        if len(group) <= NAMED_TOGETHER:
            lines += [f"failed: {failure.what}: {failure.reason}" for failure in group]
            continue
        names = ", ".join(str(failure.source) for failure in group[:NAMED_TOGETHER])
        whole = replace(group[0], source=None).what
        lines.append(f"failed: {whole}, {len(group)} sources ({names}, ...): {group[0].reason}")
    return lines


class FailureLog:
    """The failures of a store, in one JSON file that is written at every change."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAILURES_FILE
        self._failures = read_failures(folder)

    def drop(self, is_retried: Callable[[Failure], bool]) -> None:
        """Forget the failures of what is tried again."""
        kept = [failure for failure in self._failures if not is_retried(failure)]
        if kept != self._failures:
            self._failures = kept
            self._write()

    def add(self, failure: Failure) -> None:
        """Keep one more failure."""
        self._failures.append(failure)
        self._write()

    def _write(self) -> None:
        write_json(self._path, [asdict(failure) for failure in self._failures])


def read_failures(folder: Path) -> list[Failure]:
    """Return the failures kept in a store's folder; none where there is no file.

    Raises:
        UserError: If the file cannot be read or holds something else.
    """
    path = folder / FAILURES_FILE
    if not path.exists():
        return []
    try:
        return [_failure(entry) for entry in read_json(path)]
    except (JsonError, TypeError) as error:
        reason = error.reason if isinstance(error, JsonError) else "it is not a list of failures"
        raise UserError(
            f"{str(path)!r} cannot be read: {reason}; remove it, what it lists is tried again by the next 'grid eval'"
        ) from error


def _failure(entry: Any) -> Failure:
    failure = Failure(**entry)
    kinds = {"seed": int | None, "source": str | None, "target": str | None}
    if not all(isinstance(getattr(failure, field.name), kinds.get(field.name, str)) for field in fields(failure)):
        raise TypeError(f"{entry!r} is no failure")
    return failure


def is_about(selection: Selection, failure: Failure) -> bool:
    """Whether a failure is about something that is asked for."""
    return (
        failure.model in [model.name for model in selection.models]
        and (failure.seed is None or failure.seed in selection.seeds)
        and (failure.source is None or failure.source in [source.name for source in selection.sources])
        and (failure.target is None or failure.target in [target.name for target in selection.targets])
    )
