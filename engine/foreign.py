"""Where adapters lie: in the run's own folder, or in a folder of adapters that somebody else trained."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transfergrid.engine.adapters import find_adapters
from transfergrid.engine.selection import Selection
from transfergrid.grid import Cell, RunFolder, UserError

DEFAULT_PATTERN = "{task}-{language}"
UNKNOWN_SEED = 0
"""Training seed of foreign adapters whose names do not say one."""

_FIELDS = {
    "model": r"[A-Za-z0-9._-]+",
    "seed": r"\d+",
    "task": r"[a-z][a-z0-9_]*",
    "language": r"[a-z]{2,3}(?:_[a-z0-9]{2,8})?",
}


@dataclass(frozen=True, slots=True)
class AdapterPlace:
    """One adapter's folder and what it was trained on."""

    model: str
    """The configuration's name of its base."""
    seed: int
    cell: Cell
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignAdapters:
    """A folder of adapters and how their source cells are known."""

    folder: Path
    pattern: str = DEFAULT_PATTERN
    """End of an adapter's path, with ``{task}``, ``{language}`` and perhaps ``{seed}``, ``{model}``."""
    table: Path | None = None
    """CSV file with the columns path, task, language and perhaps seed, model; used instead of the pattern."""


def own_places(run: RunFolder, selection: Selection) -> tuple[AdapterPlace, ...]:
    """Return where ``grid train-adapters`` puts the adapters of a selection, whether they are there or not."""
    return tuple(
        AdapterPlace(model.name, seed, cell, run.adapter(model.name, seed, cell))
        for model in selection.models
        for seed in selection.seeds
        for cell in selection.source_cells
    )


def foreign_places(foreign: ForeignAdapters, models: Sequence[str]) -> tuple[AdapterPlace, ...]:
    """Find the adapters of a folder and name their source cells.

    Args:
        foreign: The folder, and the pattern or table.
        models: Names of the models that are scored; adapters of others are left out.

    Raises:
        UserError: If there is no adapter, a source cell cannot be told, two adapters have the same one, or it is not
            said which of several models they belong to.
    """
    rows = _from_pattern(foreign) if foreign.table is None else _from_table(foreign.folder, foreign.table)
    places: dict[tuple[str, int, Cell], AdapterPlace] = {}
    for path, fields in rows:
        model = fields.get("model") or _only_model(models, path)
        seed = fields.get("seed") or str(UNKNOWN_SEED)
        if not seed.isdecimal():
            raise UserError(f"adapter {str(path)!r} has seed {seed!r}; expected a whole number")
        place = AdapterPlace(model, int(seed), Cell(fields["task"], fields["language"]), path)
        key = (place.model, place.seed, place.cell)
        if key in places:
            raise UserError(
                f"{str(places[key].path)!r} and {str(path)!r} are both {place.cell.name} s{place.seed} of "
                f"{place.model!r}; tell them apart by {{seed}} or a table"
            )
        if model in models:
            places[key] = place
    return tuple(places.values())


def _only_model(models: Sequence[str], path: Path) -> str:
    if len(models) != 1:
        raise UserError(
            f"adapter {str(path)!r} could belong to any of the models {list(models)}; name one with --model, or use "
            "{model} in the pattern"
        )
    return models[0]


def _from_pattern(foreign: ForeignAdapters) -> Iterator[tuple[Path, dict[str, str]]]:
    regex = _pattern_regex(foreign.pattern)
    found = find_adapters(foreign.folder)
    for path in found:
        if not set(found).isdisjoint(path.parents):  # a checkpoint inside an adapter's folder
            continue
        relative = path.relative_to(foreign.folder).as_posix()
        match = regex.search(relative)
        if match is None:
            raise UserError(
                f"adapter folder {relative!r} does not end in {foreign.pattern!r}; give --adapter-pattern or "
                "--adapter-table"
            )
        yield path, match.groupdict()


def _pattern_regex(pattern: str) -> re.Pattern[str]:
    """Turn a naming pattern into a regular expression over the end of a path."""
    names = re.findall(r"\{(.*?)\}", pattern)
    unknown = sorted(set(names) - set(_FIELDS))
    if unknown or not {"task", "language"} <= set(names) or len(names) != len(set(names)):
        raise UserError(
            f"adapter pattern {pattern!r} is not usable; expected {{task}} and {{language}}, and perhaps {{seed}} and "
            "{model}, each once"
        )
    pieces = re.split(r"\{.*?\}", pattern)
    body = "".join(
        re.escape(piece) + (f"(?P<{name}>{_FIELDS[name]})" if name else "")
        for piece, name in zip(pieces, [*names, ""], strict=True)
    )
    return re.compile(rf"(?:^|/){body}$")


def _from_table(folder: Path, table: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    try:
        with table.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"adapter table {str(table)!r} cannot be read: {error}") from error
    if not rows or not {"path", "task", "language"} <= set(rows[0]):
        raise UserError(
            f"adapter table {str(table)!r} has the columns {sorted(rows[0]) if rows else []}; expected path, task, "
            "language and perhaps seed, model, and at least one row"
        )
    for row in rows:
        yield folder / row["path"], row
