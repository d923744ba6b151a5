"""Numbers, durations, sizes and hints as text, shared by several views."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any


def level(share: float) -> str:
    """Return a level or rate of the settings as percent, not rounded to whole ones: 0.975 is ``97.5%``."""
    return f"{100 * share:g}%"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 model``, ``9 models``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: Sequence[str], limit: int) -> str:
    """Return the first names and how many more there are: ``a, b and 3 more``."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def closest_hint(value: Any, accepted: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` for the accepted word nearest to a value, or nothing."""
    begun = [word for word in accepted if len(str(value)) > 1 and word.startswith(str(value))]
    near = begun or difflib.get_close_matches(str(value), accepted, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def format_duration(seconds: float) -> str:
    """Return a duration as ``1:02:03``, with days where there are any: ``2 d 1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02d}:{second:02d}"


def format_bytes(n_bytes: float) -> str:
    """Return a size with a unit that keeps it short."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def format_left(seconds: float | None) -> str:
    """Return the time left as ``h:mm:ss left``."""
    return "time left unknown" if seconds is None else f"{timedelta(seconds=round(seconds))} left"


def one_line(text: object, limit: int = 300) -> str:
    """Return text from outside, such as a library's message, on one line without control characters, cut to a limit."""
    line = " ".join(str(text).split())
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."
