"""JSON from outside, read strictly: any bytes give a value, or one sentence that says what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from transfergrid.grid import UserError

MAX_BYTES = 32 * 2**20
MAX_DEPTH = 100
"""Brackets inside each other; deeper values end Python's own recursion somewhere else."""
_MAX_NUMBER = 10**300


class JsonError(UserError):
    """Text that is not the JSON we accept; ``reason`` says why in a few words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        """Return one sentence with the text's name, the reason and the next step."""
        return f"{self.name} cannot be read as JSON: {self.reason}; mend it or fetch it again"


class _RefusedError(Exception):
    """The reason why a value is refused."""


def read_json(path: Path, *, max_bytes: int = MAX_BYTES, allow_nan: bool = False) -> Any:
    """Return the value of a JSON file; see `parse_json`.

    Raises:
        JsonError: If the file cannot be read or is not such JSON.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(max_bytes + 1)
    except OSError as error:
        raise JsonError(repr(str(path)), error.strerror or str(error)) from error
    return parse_json(content, repr(str(path)), max_bytes=max_bytes, allow_nan=allow_nan)


def read_json_lines(path: Path, *, allow_nan: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield the number (from 1) and the value of every line of a JSON Lines file that is not blank.

    Raises:
        JsonError: If the file cannot be read or a line is not such JSON; names the line.
    """
    try:
        with path.open("rb") as handle:
            number = 0
            while line := handle.readline(MAX_BYTES + 1):
                number += 1
                if line.strip():
                    yield number, parse_json(line, f"line {number} of {str(path)!r}", allow_nan=allow_nan)
    except OSError as error:
        raise JsonError(repr(str(path)), error.strerror or str(error)) from error


def parse_json(content: bytes | str, name: str, *, max_bytes: int = MAX_BYTES, allow_nan: bool = False) -> Any:
    """Return the value of a JSON text.

    Args:
        content: The text; bytes must be UTF-8.
        name: What it is, for the message: a path in quotes, or a line of one.
        max_bytes: Longer texts are refused.
        allow_nan: Let NaN and Infinity through as such numbers, for readers that say more of them.

    Raises:
        JsonError: If the text is too long, not JSON, nested deeper than `MAX_DEPTH`, or has a key twice, a lone
            surrogate, or a number that no float holds.
    """
    if len(content) > max_bytes:
        raise JsonError(name, f"it is longer than {max_bytes} bytes")
    try:
        text = content.decode() if isinstance(content, bytes) else content
        constants = None if allow_nan else _refuse_constant
        value = json.loads(text, object_pairs_hook=_object, parse_constant=constants)
        _check(value, allow_nan=allow_nan)
    except UnicodeDecodeError as error:
        raise JsonError(name, f"it is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise JsonError(name, f"it is nested deeper than {MAX_DEPTH} brackets") from error
    except json.JSONDecodeError as error:
        raise JsonError(name, f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # Python's limit of the digits of a whole number
        raise JsonError(name, "it holds a number of thousands of digits") from error
    except _RefusedError as error:
        raise JsonError(name, str(error)) from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RefusedError(f"key {_shown(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is no number of JSON")


def _check(value: Any, *, allow_nan: bool) -> None:
    """Refuse what later code cannot hold, level by level, so that no depth of brackets ends the recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            else:
                _check_leaf(each, allow_nan)
        if not inner:
            return
        level = inner
    raise _RefusedError(f"it is nested deeper than {MAX_DEPTH} brackets")


def _check_leaf(value: Any, allow_nan: bool) -> None:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
    elif (isinstance(value, float) and not (allow_nan or isfinite(value))) or (
        isinstance(value, int) and abs(value) > _MAX_NUMBER
    ):
        raise _RefusedError("it holds a number that is too large")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _RefusedError(f"text {_shown(text)} holds half a character (a lone surrogate)") from error


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a safetensors file's header.

    Raises:
        ValueError: If the header is no JSON, or the file ends before the weights that it names.
    """
    n_bytes = file.stat().st_size
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        if size > n_bytes:
            raise ValueError(f"header of {size} bytes in a file of {n_bytes}")
        try:
            header = parse_json(handle.read(size), "the header")
        except JsonError as error:
            raise ValueError(error.reason) from error
    tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
    end = 8 + size + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if end > n_bytes:
        raise ValueError(f"weights up to byte {end} in a file of {n_bytes}")
    return {key: tuple(entry["shape"]) for key, entry in tensors.items()}
