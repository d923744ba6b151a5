"""A diverging colour scale that colour-blind readers can tell apart: blue above zero, orange below."""

from __future__ import annotations

from collections.abc import Sequence

_STEPS_ABOVE = ("#deebf7", "#9ecae1", "#6baed6", "#2171b5", "#08306b")
_STEPS_BELOW = ("#feedde", "#fdbe85", "#fd8d3c", "#b35806", "#7f3b08")
_NEUTRAL = "#f7f7f7"
_N_PALE = 3
"""Steps on each side that take dark text; the others take light text."""


def diverging_step(value: float, limit: float) -> int:
    """Return the step of a value, -5..5: 0 within a tenth of the limit around zero, then equal parts.

    Args:
        value: What is shown.
        limit: Absolute value that has the strongest colour; larger ones have it too.
    """
    if limit <= 0:
        return 0
    size = min(abs(value) / limit, 1.0)
    if size < 0.1:
        return 0
    step = min(int((size - 0.1) / 0.9 * len(_STEPS_ABOVE)) + 1, len(_STEPS_ABOVE))
    return step if value > 0 else -step


def diverging_style(value: float, limit: float) -> str:
    """Return the rich style of a value: text colour on background colour, so that it reads on any terminal."""
    step = diverging_step(value, limit)
    if step == 0:
        return f"#000000 on {_NEUTRAL}"
    background = (_STEPS_ABOVE if step > 0 else _STEPS_BELOW)[abs(step) - 1]
    return f"{'#000000' if abs(step) <= _N_PALE else '#ffffff'} on {background}"


def strong_limit(values: Sequence[float]) -> float:
    """Return the absolute value that nine tenths of the values stay below: an outlier does not pale the rest."""
    sizes = sorted(abs(value) for value in values)
    return sizes[min(int(0.9 * len(sizes)), len(sizes) - 1)] if sizes else 0.0
