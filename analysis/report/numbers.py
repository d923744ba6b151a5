"""Numbers as pages write them, and the templates that do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

NBSP = "\u00a0"
"""Keeps a number and its unit on one line."""


def pp(value: float) -> str:
    """Return percentage points with their sign: ``+1.25 pp``."""
    return f"{round(value, 2) + 0.0:+.2f}{NBSP}pp".replace("-", "−")


def percent(value: float) -> str:
    """Return a rate in 0..1 as percent with one digit."""
    return f"{100 * value:.1f}%"


def bold_numbers(text: str) -> Markup:
    """Return text for a page, its numbers with sign and unit in bold; a digit inside a name is none."""
    number = r"(?<![\w.\-−+&#;])([+−]?\d[\d,]*(?:\.\d+)?(?:%|\u00a0pp| pp)?)(?![\w\-])"
    return Markup(re.sub(number, r"<b>\1</b>", str(escape(text))))


def interval(row: Mapping[str, Any], name: str, form: str = "pp") -> str | None:
    """Return ``low to high``; None where there is no interval."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None:
        return None
    if form == "percent":
        return f"{100 * low:.1f} to {100 * high:.1f}%"
    return f"{low:+.2f} to {high:+.2f}".replace("-", "−")


def excludes_zero(row: Mapping[str, Any]) -> bool:
    """Return whether the interval of the mean delta leaves 0 out."""
    return bool(row["mean_pp_low"] > 0 or row["mean_pp_high"] < 0)


def templates(package: str) -> Environment:
    """Return a package's page templates: text is escaped, and a value that is not there is an error."""
    loader = PackageLoader(package, ".")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"pp": pp, "percent": percent, "bold_numbers": bold_numbers}
    found.globals["interval"] = interval
    return found
