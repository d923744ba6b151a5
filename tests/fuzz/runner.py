"""Tries the readers in turn, a few hundred inputs at a time, until the time is over."""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import tests.fuzz
from transfergrid.grid import UserError

MAX_CPU_S = 2.0
_PREFIX = "read_"
_INPUTS_A_ROUND = 100
_SHOWN = 500


class BrokenError(Exception):
    """An input ended in something other than a value or one sentence."""


@dataclass(slots=True)
class Reader:
    """One reader of files from outside, and what became of the inputs it was given."""

    name: str
    contents: st.SearchStrategy[bytes]
    read: Callable[[bytes, Path], object]
    several_lines: bool = False
    """Whether a message lists several faults, one a line."""
    n_tried: int = 0
    n_refused: int = 0
    """Inputs that ended in one sentence."""
    broken: str | None = None
    """How the first input that did not hold ended; such a reader is not tried again."""


def find_readers(names: Sequence[str] = ()) -> list[Reader]:
    """Return the readers of the modules ``tests/fuzz/read_*.py``, or those of the given names."""
    found = sorted(each.name for each in pkgutil.iter_modules(tests.fuzz.__path__) if each.name.startswith(_PREFIX))
    modules = {name.removeprefix(_PREFIX): importlib.import_module(f"tests.fuzz.{name}") for name in found}
    if unknown := sorted(set(names) - modules.keys()):
        raise UserError(f"no reader {unknown[0]!r}; expected some of {sorted(modules)}")
    lines = {name: getattr(each, "SEVERAL_LINES", False) for name, each in modules.items()}
    return [
        Reader(name, each.CONTENTS, each.read, lines[name])
        for name, each in modules.items()
        if not names or name in names
    ]


def fuzz(readers: Sequence[Reader], seconds: float, *, first_seed: int | None = None) -> None:
    """Give the readers inputs in turn until the time is over; every one gets at least one round.

    Args:
        readers: What is tried; their counts grow.
        seconds: Wall time of all together.
        first_seed: Seed of the first round; None: another one each time.
    """
    number = random.randrange(2**31) if first_seed is None else first_seed
    end = time.monotonic() + seconds
    waiting = list(readers)
    while waiting:
        for reader in waiting:
            _round(reader, number)
            number += 1
        waiting = [reader for reader in waiting if reader.broken is None and time.monotonic() < end]


def _round(reader: Reader, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=_INPUTS_A_ROUND,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.contents)
    def attempt(content: bytes) -> None:
        if reader.broken is None:
            try:
                try_input(reader, content)
            except BrokenError as error:
                reader.broken = str(error)

    attempt()


def try_input(reader: Reader, content: bytes) -> None:
    """Give a reader one input.

    Raises:
        BrokenError: If it does not hold; the input is kept in ``.build/fuzz/``.
    """
    reader.n_tried += 1
    start = time.process_time()
    fault = None
    kept = _keep(reader.name, content)  # before it is read: a library may end the whole process
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            reader.read(content, Path(folder))
        except UserError as error:
            reader.n_refused += 1
            text = str(error)
            if not text or not (text.replace("\n", "") if reader.several_lines else text).isprintable():
                fault = f"the sentence has line breaks or control characters: {text!r}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Polars is no Exception
            fault = f"{type(error).__name__}: {error}"
    wall = time.process_time() - start
    if fault is None and wall > MAX_CPU_S:
        fault = f"it took {wall:.1f} s"
    if fault is not None:
        raise BrokenError(f"{kept}: {fault[:_SHOWN]}")
    kept.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Polars' panics say of themselves off the terminal; the exception is what counts."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _keep(name: str, content: bytes) -> Path:
    path = Path(".build/fuzz") / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def table(readers: Sequence[Reader]) -> str:
    """Return the counts as text, one line a reader and one for all."""
    lines = [f"{'reader':<20} {'tried':>8} {'held':>8} {'of them refused':>16}"]
    total = Reader("all", st.binary(), lambda content, folder: None)
    for each in readers:
        total.n_tried += each.n_tried
        total.n_refused += each.n_refused
    n_broken = sum(each.broken is not None for each in readers)
    lines += [_line(each, int(each.broken is not None)) for each in readers] + [_line(total, n_broken)]
    return "\n".join([*lines, *(f"{each.name}: {each.broken}" for each in readers if each.broken)])


def _line(reader: Reader, n_broken: int) -> str:
    return f"{reader.name:<20} {reader.n_tried:>8} {reader.n_tried - n_broken:>8} {reader.n_refused:>16}"
