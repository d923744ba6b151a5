"""Contents that are nearly right: valid files with bytes flipped, cut or repeated, values exchanged for strange ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

STRANGE_JSON = (
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"0",
    b"2.5",
    b"70.1",
    b"1" * 400,
    b"1" * 5000,
    b"[" * 200_000 + b"]" * 200_000,
    b'{"a":' * 150 + b"1" + b"}" * 150,
    b'{"a": 1, "a": 2}',
    b"[]",
    b"{}",
    b"[1]",
    b'""',
    b'"1"',
    b'"nan"',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\\u001b[31mred\\n"',
    b'"=1+1"',
    b'"../../x"',
    b'"' + b"x" * 5000 + b'"',
)
"""JSON texts that a careless reader stumbles over."""

STRANGE_TEXTS = ("", " ", "-1", "0", "2.5", "70.1", "1e999", "NaN", "inf", "true", "null", "=1+1", "\x1b[31m", '"', "é\ud7ff", "x" * 5000)  # fmt: skip
"""The same for cells of CSV and plain text."""


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes]) -> bytes:
    """A valid content with up to four pieces of it cut out, doubled or overwritten, or cut off at the end."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, 4))):
        if not content:
            break
        start = draw(st.integers(0, len(content) - 1))
        end = min(len(content), start + draw(st.sampled_from((1, 1, 1, 2, 8, 64))))
        kind = draw(st.sampled_from(("flip", "overwrite", "cut out", "double", "cut off")))
        if kind == "flip":
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "overwrite":
            content[start:end] = draw(st.binary(max_size=end - start))
        elif kind == "cut out":
            del content[start:end]
        elif kind == "double":
            content[start:start] = content[start:end]
        else:
            del content[start:]
    return bytes(content)


def damaged_json(*values: Any) -> st.SearchStrategy[bytes]:
    """JSON texts: of a value with parts exchanged for strange ones or left out, or damaged byte by byte."""
    texts = [json.dumps(value).encode() for value in values]
    return changed_json(values) | changed_json(values) | damaged(texts) | st.binary(max_size=50)


@st.composite
def changed_json(draw: st.DrawFn, values: Sequence[Any]) -> bytes:
    """The JSON text of a value in which one to three parts are strange, or not there."""
    value = deepcopy(draw(st.sampled_from(values)))
    placed: list[tuple[bytes, bytes]] = []
    for number in range(draw(st.integers(1, 3))):
        paths = list(_paths(value))
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        inside = value
        for step in way:
            inside = inside[step]
        if draw(st.integers(0, 3)) == 0:
            del inside[last]
        else:
            inside[last] = f"@{number}@"
            placed.append((f'"@{number}@"'.encode(), draw(st.sampled_from(STRANGE_JSON))))
    text = json.dumps(value).encode()
    for mark, strange in placed:
        text = text.replace(mark, strange)
    return text


def _paths(value: Any) -> Iterator[list[Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield [key]
        yield from ([key, *path] for path in _paths(inner))


@st.composite
def changed_table(draw: st.DrawFn, header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A CSV text in which some cells are strange, rows doubled or columns left out."""
    names, table = list(header), [list(row) for row in rows]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(0, len(table) - 1))
        column = draw(st.integers(0, len(names) - 1))
        kind = draw(st.sampled_from(("cell", "cell", "cell", "whole column", "double", "name")))
        if kind == "cell":
            table[row][column] = draw(st.sampled_from(STRANGE_TEXTS))
        elif kind == "whole column":
            strange = draw(st.sampled_from(STRANGE_TEXTS))
            for each in table:
                each[column] = strange
        elif kind == "double":
            table.append(list(table[row]))
        else:
            names[column] = draw(st.sampled_from((*header, "", "other")))
    return "\n".join(",".join(line) for line in [names, *table]).encode() + b"\n"
