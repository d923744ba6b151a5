"""Where adapters lie: in the run's own folder, or in a folder of adapters trained elsewhere."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transfergrid.config.selection import Selection
from transfergrid.engine.adapters.folder import find_adapters
from transfergrid.grid import MIXTURE_KIND, Cell, Source, UserError
from transfergrid.store.folder import RunFolder

DEFAULT_PATTERN = "{task}-{language}"
UNKNOWN_SEED = 0
"""Training seed of adapters whose names do not say one."""

_COLUMNS = ("path", "task", "language")  # of a table; these a row must fill
_SEVERAL_CELLS = ("path", "cells")  # and these where it was trained on several cells
_OTHER_KIND = ("path", "kind", "source", "cells")  # and these where it names a kind
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
    source: Source
    path: Path

    @property
    def seed(self) -> int:
        """Its training seed."""
        return self.source.seed or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A folder of adapters and how their source cells are known."""

    folder: Path
    pattern: str = DEFAULT_PATTERN
    """End of an adapter's path, with ``{task}``, ``{language}`` and perhaps ``{seed}``, ``{model}``."""
    table: Path | None = None
    """CSV file with the columns path, task, language and perhaps seed, model; used instead of the pattern.

    A row of a mixture fills cells (``task-lang+task-lang``) and perhaps source (its name; else that of its folder) in
    place of task and language; one of another kind of source kind, source, cells and perhaps variant.
    """


def own_places(run: RunFolder, selection: Selection) -> tuple[AdapterPlace, ...]:
    """Return where ``grid train-adapters`` puts the adapters of a selection, whether they are there or not."""
    return tuple(
        AdapterPlace(model.name, replace(source, seed=seed), run.adapter(model.name, seed, source))
        for model in selection.models
        for seed in selection.seeds
        for source in selection.sources
        if not source.is_base
    )


def folder_places(
    adapters: AdapterFolder, models: Sequence[str], known: Collection[Cell] = ()
) -> tuple[AdapterPlace, ...]:
    """Find the adapters of a folder and name their source cells.

    Adapters of other models are left out. A name that can be read in several ways is taken to be one of the
    ``known`` cells.

    Raises:
        UserError: If there is no adapter, a source cell cannot be told, two adapters have the same one, or it is not
            said which of several models they belong to.
    """
    rows = (
        _from_pattern(adapters, models, known)
        if adapters.table is None
        else _from_table(adapters.folder, adapters.table)
    )
    places: dict[tuple[str, int, str], AdapterPlace] = {}
    for path, fields in rows:
        model = fields.get("model") or _only_model(models, path)
        seed = fields.get("seed") or str(UNKNOWN_SEED)
        if not seed.isdecimal():
            raise UserError(f"adapter {str(path)!r} has seed {seed!r}; expected a whole number")
        place = AdapterPlace(model, _source(fields, int(seed), path), path)
        key = (place.model, place.seed, place.source.name)
        if key in places:
            raise UserError(
                f"{str(places[key].path)!r} and {str(path)!r} are both {place.source} s{place.seed} of "
                f"{place.model!r}; tell them apart by {{seed}} or a table"
            )
        if model in models:
            places[key] = place
    return tuple(places.values())


def _source(fields: Mapping[str, str], seed: int, path: Path) -> Source:
    """Return a single-cell adapter, or the source of another kind that a table's row describes."""
    kind, listed = fields.get("kind"), (fields.get("cells") or "").replace("+", " ").split()
    if not kind and not listed:
        return Source.of(Cell(fields["task"], fields["language"]), seed)
    cells = tuple(map(Cell.parse, listed))
    if not kind and len(cells) == 1 and not fields.get("source"):
        return Source.of(cells[0], seed)
    name = fields.get("source") or path.name
    return Source(kind or MIXTURE_KIND, name, cells, seed, fields.get("variant") or "")


def _only_model(models: Sequence[str], path: Path) -> str:
    if len(models) != 1:
        raise UserError(
            f"adapter {str(path)!r} could belong to any of the models {list(models)}; name one with --model, or use "
            "{model} in the pattern"
        )
    return models[0]


def _from_pattern(
    adapters: AdapterFolder, models: Sequence[str], known: Collection[Cell]
) -> Iterator[tuple[Path, dict[str, str]]]:
    literals, names = _split_pattern(adapters.pattern)
    n_folders = 1 + sum(literal.count("/") for literal in literals)
    found = find_adapters(adapters.folder)
    for path in found:
        if not set(found).isdisjoint(path.parents):  # a checkpoint inside an adapter's folder
            continue
        relative = path.relative_to(adapters.folder).as_posix()
        end = "/".join(relative.split("/")[-n_folders:])
        readings = list(_read_name(end, literals, names))
        if not readings:
            is_case = any(_read_name(end.lower(), [literal.lower() for literal in literals], names))
            why = ", for names of tasks and languages are lower-case" if is_case else ""
            raise UserError(
                f"adapter folder {relative!r} does not end in {adapters.pattern!r}{why}; give --adapter-pattern or "
                "--adapter-table"
            )
        yield path, _only_reading(readings, relative, models, known)


def _split_pattern(pattern: str) -> tuple[list[str], list[str]]:
    """Return a naming pattern's literal pieces and the names of the fields between them."""
    names = re.findall(r"\{(.*?)\}", pattern)
    unknown = sorted(set(names) - set(_FIELDS))
    if unknown or not {"task", "language"} <= set(names) or len(names) != len(set(names)):
        raise UserError(
            f"adapter pattern {pattern!r} is not usable; expected {{task}} and {{language}}, and perhaps {{seed}} and "
            "{model}, each once"
        )
    return re.split(r"\{.*?\}", pattern), names


def _read_name(name: str, literals: Sequence[str], fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield every way to read a name as literal, field, literal, ..., literal."""
    if not fields:
        if name == literals[0]:
            yield {}
        return
    if not name.startswith(literals[0]):
        return
    rest = name[len(literals[0]) :]
    for end in range(1, len(rest) + 1):
        if re.fullmatch(_FIELDS[fields[0]], rest[:end]):
            for others in _read_name(rest[end:], literals[1:], fields[1:]):
                yield {fields[0]: rest[:end], **others}


def _only_reading(
    readings: Sequence[dict[str, str]], name: str, models: Sequence[str], known: Collection[Cell]
) -> dict[str, str]:
    """Return the one way to read a name, or the one of several whose cell the configuration has."""
    if len(readings) == 1:
        return readings[0]
    likely = [reading for reading in readings if Cell(reading["task"], reading["language"]) in known]
    if len(likely) > 1:
        likely = [reading for reading in likely if reading.get("model") in (None, *models)]
    if len(likely) != 1:
        ways = " or ".join(" ".join(f"{field}={text}" for field, text in reading.items()) for reading in readings[:3])
        raise UserError(
            f"adapter folder {name!r} can be read as {ways}, and not exactly one of these is a cell of the "
            "configuration; say which it is with --adapter-table"
        )
    return likely[0]


def _from_table(folder: Path, table: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    try:
        with table.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            columns = sorted(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"adapter table {str(table)!r} cannot be read: {error}") from error
    if not rows or not any(set(names) <= set(columns) for names in (_COLUMNS, _SEVERAL_CELLS)):
        raise UserError(
            f"adapter table {str(table)!r} has the columns {columns}; expected path, task, language (or path, "
            "cells) and perhaps seed, model, and at least one row"
        )
    for line, row in rows:
        has_cells = row.get("cells") or "task" not in row
        needed = _OTHER_KIND if row.get("kind") else _SEVERAL_CELLS if has_cells else _COLUMNS
        if empty := [column for column in needed if not (row.get(column) or "").strip()]:
            raise UserError(
                f"adapter table {str(table)!r}, line {line}: {empty[0]} is empty; expected {', '.join(needed[:-1])} "
                f"and {needed[-1]} in every row"
            )
        yield folder / row["path"], row
