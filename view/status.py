"""What of a run is done, failed, left and stale, from names and footers of files alone."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from transfergrid.config.selection import Narrowing, Selection, select
from transfergrid.config.settings import GridConfig
from transfergrid.engine.work.failures import Failure, describe_failures, read_failures
from transfergrid.grid import Source
from transfergrid.store.folder import FAILURE_SUFFIX, RECORD_FILE, RunFolder
from transfergrid.store.json_text import JsonError, read_json
from transfergrid.store.score_store import Origin, Part, Scan, read_footers
from transfergrid.wording import count, format_duration

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the adapters or the cells of one model are."""

    model: str
    what: str
    """``adapters`` or ``cells``."""
    done: int
    failed: int
    left: int | None
    """Neither done nor failed; None: without a configuration nobody knows."""
    stale: int
    """Cells scored with an adapter, prompts or limits that are no longer the run's; they are counted as done, too."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What of a run is done."""

    folder: str
    progress: tuple[Progress, ...]
    failures: tuple[str, ...]
    """One line each."""
    unreadable: tuple[str, ...]
    """Parts of the store whose footer cannot be read."""
    seconds_left: float | None
    """For the cells that are left, at the pace of those that are done, on one engine; None: not known."""
    last_part_s: float | None
    """Seconds since the youngest part was written; None: no part."""
    next_step: str
    n_short: int = 0
    """Cells that `grid eval --adaptive` began and that have fewer items than they may get; they are counted as done."""

    def rows(self) -> pl.DataFrame:
        """Return one row per model, for adapters and for cells."""
        return pl.DataFrame([asdict(row) for row in self.progress], infer_schema_length=None)

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return what is said beside the table."""
        said = []
        if self.last_part_s is not None:
            said.append(f"the last scores came {format_duration(self.last_part_s)} ago")
        if self.seconds_left:
            said.append(f"scoring the rest takes about {format_duration(self.seconds_left)} at the pace so far")
        if self.n_short:
            said.append(
                f"{count(self.n_short, 'cell')} of an adaptive run stopped early, or not finished where it was "
                "interrupted: 'grid eval --adaptive' goes on"
            )
        said += [f"unreadable: {name}" for name in self.unreadable[:_SHOWN]]
        if len(self.failures) > _SHOWN:
            return [*said, *self.failures[:_SHOWN], f"and {len(self.failures) - _SHOWN} more failures: --json"]
        return [*said, *self.failures]

    def __rich__(self) -> RenderableType:
        """Show one row per model."""
        table = Table(box=None, pad_edge=False, title=Text(f"Run {self.folder}"), title_justify="left")
        table.add_column("model", overflow="ellipsis", no_wrap=True)
        for name in ("", "done", "failed", "left", "stale"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for row in self.progress:
            numbers = (row.done, row.failed, row.left, row.stale)
            table.add_row(Text(row.model), row.what, *("-" if each is None else f"{each:,}" for each in numbers))
        command = Text(f"next: {self.next_step}", no_wrap=True, overflow="ignore")  # it is copied
        return Group(table, *map(Text, self.lines()), command)


class _Adapters(NamedTuple):
    hashes: dict[tuple[str, int, str], str | None]
    """Content by (model, seed, source); None: not recorded."""
    failed: dict[tuple[str, int, str], str]
    """Why, by (model, seed, source)."""


def read_status(run: RunFolder, config: GridConfig | None = None, *, where: str | None = None) -> RunStatus:
    """Return what of a run is done; no model, adapter or score is read.

    Args:
        run: The run's folder.
        config: Says what there should be; None: what is there.
        where: Options that name configuration and run, for the next command.

    Raises:
        UserError: If the note of failures is damaged.
    """
    parts, unreadable = read_footers(run.scores)
    scored: dict[Origin, dict[str, Part]] = {}
    for part in parts:
        scored.setdefault(part.origin, {}).update((cell.target, part) for cell in part.cells)
    failures = read_failures(run.scores)
    adapters = _find_adapters(run)
    selection = None if config is None else select(config, Narrowing())
    models = [model.name for model in selection.models] if selection else _models(parts, adapters)
    rows: list[Progress] = []
    for model in models:
        own = {origin.source: cells for origin, cells in scored.items() if origin.model == model}
        about = [failure for failure in failures if failure.model == model]
        rows += (_training(model, selection, adapters), _scoring(model, own, about, (config, selection), adapters))
    left = sum(row.left or 0 for row in rows if row.what == "cells")
    n_cells = sum(map(len, scored.values()))
    wall_s = sum(cell.wall_s for part in parts for cell in part.cells)
    slices = Scan(tuple(part for part in parts if any(cell.start is not None for cell in part.cells)))
    newest = max((changed for part in parts if (changed := _changed_s(part.path))), default=None)
    not_trained = [
        f"failed: adapter {model} s{seed} {source}: {why}" for (model, seed, source), why in adapters.failed.items()
    ]
    return RunStatus(
        folder=str(run.root),
        progress=tuple(rows),
        failures=(*not_trained, *describe_failures(failures)),
        unreadable=tuple(unreadable),
        seconds_left=left * wall_s / n_cells if left and n_cells else None,
        last_part_s=None if newest is None else max(time.time() - newest, 0.0),
        next_step=_next_step(
            where or f"--run {shlex.quote(str(run.root))}", rows, has_data=(run.data / "manifest.json").exists()
        ),
        n_short=sum(cell.is_short for cell in slices.cells().values()),
    )


def _next_step(where: str, rows: Sequence[Progress], *, has_data: bool) -> str:
    """Return the command that comes next."""

    def undone(what: str) -> bool:
        return any((row.left or 0) + row.failed > 0 for row in rows if row.what == what)

    if any(row.stale for row in rows):
        return f"grid eval --force {where}, which scores the stale cells again"
    if undone("adapters"):
        return f"grid train-adapters {where}" if has_data else f"grid data {where}"
    if undone("cells"):
        return f"grid eval {where}"
    return f"grid report {where}, then grid view {where}"


def _changed_s(path: Path) -> float | None:
    with suppress(FileNotFoundError):  # moved aside meanwhile
        return path.stat().st_mtime
    return None


def _models(parts: Sequence[Part], adapters: _Adapters) -> list[str]:
    trained = {model for model, _, _ in (*adapters.hashes, *adapters.failed)}
    return sorted({part.origin.model for part in parts} | trained)


def _find_adapters(run: RunFolder) -> _Adapters:
    """Find the run's own adapters, ``adapters/MODEL/sSEED/SOURCE``."""
    found = _Adapters({}, {})
    for folder, names, _ in os.walk(run.adapters):
        seeds = [name for name in names if name[0] == "s" and name[1:].isdecimal()]
        names[:] = sorted(set(names) - set(seeds))
        model = Path(folder).relative_to(run.adapters).as_posix()
        for seed in seeds:
            for path in sorted(Path(folder, seed).glob("*")):
                key = (model, int(seed[1:]), path.name.removesuffix(FAILURE_SUFFIX))
                if path.name.endswith(FAILURE_SUFFIX):
                    found.failed[key] = str(_field(path, "reason"))
                elif path.is_dir():
                    recorded = _field(path / RECORD_FILE, "content_hash")
                    found.hashes[key] = None if recorded is None else str(recorded)
    return found


def _field(path: Path, name: str) -> Any:
    try:
        return _read_field(path, name, path.stat().st_mtime_ns)
    except (OSError, JsonError):
        return None


@lru_cache(maxsize=8192)
def _read_field(path: Path, name: str, _changed_ns: int) -> Any:
    content = read_json(path, allow_nan=True)
    return content.get(name) if isinstance(content, dict) else None


def _training(model: str, selection: Selection | None, adapters: _Adapters) -> Progress:
    done = {key[1:] for key in adapters.hashes if key[0] == model}
    failed = {key[1:] for key in adapters.failed if key[0] == model} - done
    left = None
    if selection is not None:
        wanted = {(seed, source.name) for seed in selection.seeds for source in selection.sources if not source.is_base}
        done, failed, left = done & wanted, failed & wanted, len(wanted - done - failed)
    return Progress(model, "adapters", len(done), len(failed), left, 0)


def _scoring(
    model: str,
    scored: Mapping[Source, Mapping[str, Part]],
    failures: Sequence[Failure],
    asked: tuple[GridConfig | None, Selection | None],
    adapters: _Adapters,
) -> Progress:
    config, selection = asked
    parts = {part.path: part for cells in scored.values() for part in cells.values()}
    old = {path for path, part in parts.items() if _is_stale(part, config, adapters)}
    stale = sum(part.path in old for cells in scored.values() for part in cells.values())
    if selection is None:
        return Progress(model, "cells", sum(map(len, scored.values())), len(failures), None, stale)
    targets = {target.name for target in selection.targets}
    done = failed = left = 0
    for source in _wanted_sources(selection):
        rest = targets - scored.get(source, {}).keys()
        n_failed = sum(any(_covers(failure, source, target) for failure in failures) for target in rest)
        done, failed, left = done + len(targets) - len(rest), failed + n_failed, left + len(rest) - n_failed
    return Progress(model, "cells", done, failed, left, stale)


def _wanted_sources(selection: Selection) -> list[Source]:
    trained = [source for source in selection.sources if not source.is_base]
    bases = [source for source in selection.sources if source.is_base]
    return bases + [replace(source, seed=seed) for source in trained for seed in selection.seeds]


def _covers(failure: Failure, source: Source, target: str) -> bool:
    return (
        failure.seed in (None, source.seed)
        and failure.source in (None, source.name)
        and failure.target in (None, target)
    )


def _is_stale(part: Part, config: GridConfig | None, adapters: _Adapters) -> bool:
    """Whether a part was scored with an adapter, prompts or limits that are no longer the run's."""
    origin = part.origin
    if origin.seed is not None:
        now = adapters.hashes.get((origin.model, origin.seed, origin.source.name))
        if now is not None and _at(part.key_parts, "adapter", "content") not in (None, now):
            return True
    if config is None:
        return False
    wanted = {
        ("prompts", "format"): config.prompts.eval_format,
        ("limits", "truncation"): config.engine.truncation,
        ("model", "quantization"): config.engine.quantization,
    }
    return any(_at(part.key_parts, *path, default=value) != value for path, value in wanted.items())


def _at(parts: Mapping[str, Any], name: str, field: str, default: Any = None) -> Any:
    section = parts.get(name)
    return section.get(field, default) if isinstance(section, Mapping) else default
