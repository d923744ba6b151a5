"""Charts inside a page: their descriptions as JSON, the libraries that draw them, and files of figures."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import altair as alt
import vl_convert

from transfergrid.analysis.charts.theme import COLOURS, theme

FORMS = ("png", "svg", "pdf")
"""Formats of figures."""
_DOTS_PER_INCH = 300
_LEAST_COLUMN_PX = 14
_SNIPPET = "window.vegaEmbed = vegaEmbed;"


def themes() -> dict[str, dict[str, Any]]:
    """Return the configuration of every colour scheme."""
    return {scheme: theme(scheme) for scheme in COLOURS}


def description(chart: alt.LayerChart | alt.Chart) -> dict[str, Any]:
    """Return a chart's description, as wide as its place in the page."""
    named = {} if chart.datasets is alt.Undefined else chart.datasets
    bare = chart.copy(deep=False)
    bare.datasets = alt.Undefined  # lists of numbers, which Altair would copy one by one
    described = bare.to_dict(validate=False)  # a test validates all; here it is half of the time
    place = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    return {**described, **place, "datasets": {**described.get("datasets", {}), **named}}


def draw(chart: alt.TopLevelMixin, form: str) -> bytes:
    """Return a figure on white as ``png``, ``svg`` or ``pdf``."""
    described = {**chart.to_dict(), "config": theme("light")}
    if form == "svg":
        return _numbered_anew(str(vl_convert.vegalite_to_svg(described))).encode()
    if form == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(described))
    return bytes(vl_convert.vegalite_to_png(described, ppi=_DOTS_PER_INCH))


def _numbered_anew(svg: str) -> str:
    """Number a figure's gradients and clips from 0: the library counts on over all figures of a process."""
    names = dict.fromkeys(re.findall(r'id="((?:gradient_|clip)\d+)"', svg))
    numbers = {name: f"{name.rstrip('0123456789')}{place}" for place, name in enumerate(names)}
    return re.sub(r"\b(?:gradient_|clip)\d+\b", lambda found: numbers.get(found[0], found[0]), svg)


@cache
def libraries() -> str:
    """Return the script of Vega, Vega-Lite and Vega-Embed, about 0.9 MB; it sets ``vegaEmbed`` and asks for no file."""
    return str(vl_convert.javascript_bundle(snippet=_SNIPPET))


def page_script() -> str:
    """Return the script that draws the charts of a page's ``data``."""
    return f"(() => {{\n{_read('page.js')}}})();"


def page_style(n_columns: int) -> str:
    """Return the styles of a page with charts, colours of both schemes first."""
    light, dark = (
        " ".join(f"--{name}: {colour};" for name, colour in COLOURS[scheme].items()) for scheme in ("light", "dark")
    )
    schemes = f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f"{schemes}\n.matrix {{ min-width: {_LEAST_COLUMN_PX * n_columns + 100}px; }}\n{_read('style.css')}"


def _read(name: str) -> str:
    return resources.files("transfergrid.analysis.charts").joinpath(name).read_text(encoding="utf-8")


def script_json(value: Mapping[str, Any]) -> str:
    """Return JSON that may stand inside a ``<script>`` element: no character in it can end the element.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_hash(script: str) -> str:
    """Return the source that lets a Content-Security-Policy run this script and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
