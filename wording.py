"""Numbers as words for readers that several views share."""

from __future__ import annotations


def level(share: float) -> str:
    """Return a level or rate of the settings as percent, not rounded to whole ones: 0.975 is ``97.5%``."""
    return f"{100 * share:g}%"
