"""An adapter's weights, read once: their names and shapes, their hash, and whether every value is a number."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from transfergrid.store.json_text import JsonError, parse_json

MAX_HEADER_BYTES = 100_000_000
"""Longest header that safetensors itself reads."""

# unsigned integers of the same width; bits of infinity; left shift that makes them those of a float32 or float64
_FORMATS = {
    "F64": ("<u8", 0x7FF0 << 48, "<f8", 0),
    "F32": ("<u4", 0x7F80 << 16, "<f4", 0),
    "F16": ("<u2", 0x7C00, "<f2", 0),
    "BF16": ("<u2", 0x7F80, "<f4", 16),
}


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A safetensors file without its values."""

    shapes: Mapping[str, tuple[int, ...]]
    largest: Mapping[str, float]
    """Largest absolute value of every tensor; 0 where it holds none."""
    sha256: str


def read_weights(file: Path) -> WeightsFile:
    """Read a safetensors file from its first byte to its last, once.

    Values are compared as integers: without their sign, the bits of floats are ordered as the floats are, and NaN and
    infinity come after every number.

    Raises:
        ValueError: If the header is damaged or does not describe the file to its end, a tensor holds NaN or infinity,
            or is of a type that is no plain float; names the tensor.
        OSError: If the file cannot be read.
    """
    n_bytes, digest = file.stat().st_size, hashlib.sha256()
    shapes, largest = {}, {}
    with file.open("rb") as handle:
        entries = _read_header(handle, n_bytes, digest)
        for key, kind, shape, n_data in entries:
            data = handle.read(n_data)
            digest.update(data)
            shapes[key], largest[key] = shape, _largest(key, kind, data)
    return WeightsFile(shapes, largest, digest.hexdigest())


def _read_header(handle: BinaryIO, n_bytes: int, digest: Any) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Return name, type, shape and bytes of the tensors, in the order of the file."""
    start = handle.read(8)
    n_header = int.from_bytes(start, "little")
    if len(start) < 8 or n_header > min(n_bytes - 8, MAX_HEADER_BYTES):
        raise ValueError(f"its header should have {n_header} bytes, the file has {n_bytes}")
    text = handle.read(n_header)
    digest.update(start + text)
    try:
        header = parse_json(text, repr(handle.name), max_bytes=MAX_HEADER_BYTES)
        header.pop("__metadata__", None)
        entries = [
            (entry["data_offsets"], key, str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for key, entry in header.items()
        ]
        entries.sort(key=lambda entry: tuple(map(int, entry[0])))
        return _checked(entries, n_bytes - 8 - n_header)
    except JsonError as error:
        raise ValueError(f"its header is damaged ({error.reason})") from error
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its header is damaged ({type(error).__name__}: {error!s:.80})") from error


def _checked(entries: list[Any], n_data: int) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Check that the tensors follow each other without gaps, each as long as its shape says, to the end of the file."""
    position, found = 0, []
    for (begin, end), key, kind, shape in entries:
        if kind not in _FORMATS:
            raise ValueError(f"{key!r} is of type {kind!r:.40}; expected one of {sorted(_FORMATS)}")
        n_expected = math.prod(shape) * np.dtype(_FORMATS[kind][0]).itemsize
        if begin != position or end - begin != n_expected or min(shape, default=0) < 0:
            raise ValueError(f"{key!r} should have {n_expected} bytes from {position} on; found {begin} to {end}")
        found.append((key, kind, shape, n_expected))
        position = end
    if position != n_data:
        raise ValueError(f"its header speaks of {position} bytes of weights, the file holds {n_data}")
    return found


def _largest(key: str, kind: str, data: bytes) -> float:
    """Return the largest absolute value of a tensor."""
    integers, infinity, floats, shift = _FORMATS[kind]
    values = np.frombuffer(data, integers)
    mask = values.dtype.type((1 << (8 * values.dtype.itemsize - 1)) - 1)
    bits = int(np.bitwise_and(values, mask).max(initial=0))
    if bits >= infinity:
        raise ValueError(f"{key!r} holds NaN or infinity")
    width = np.dtype(floats).itemsize
    return float(np.frombuffer((bits << shift).to_bytes(width, "little"), floats)[0])
