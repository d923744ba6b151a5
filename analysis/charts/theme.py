"""Colours and type of all charts, for a light and a dark page."""

from __future__ import annotations

from typing import Any

COLOURS = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1b1f24",
        "soft": "#57606a",
        "line": "#d0d7de",
        "panel": "#f6f8fa",
        "accent": "#1258ad",
        "gain": "#1258ad",
        "middle": "#f4f4f1",
        "loss": "#943f00",
        "hatch": "#9aa1a9",
    },
    "dark": {
        "paper": "#14171a",
        "ink": "#e6e9ec",
        "soft": "#a3abb3",
        "line": "#363c43",
        "panel": "#1d2126",
        "accent": "#7cb7ff",
        "gain": "#6fb1ff",
        "middle": "#2a2e33",
        "loss": "#ff9d45",
        "hatch": "#757d86",
    },
}
"""Blue against orange, which colour-blind readers tell apart; the page's styles take the same."""

DEEP = {"light": 0.795, "dark": 0.55}
"""Share of the way to the full colour from which the other ink reads better, by scheme."""

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, Liberation Sans, sans-serif"


def theme(scheme: str) -> dict[str, Any]:
    """Return the Vega-Lite configuration of a colour scheme, ``light`` or ``dark``; marks name its styles."""
    colour = COLOURS[scheme]
    ink, deep = ("#000000", "#ffffff") if scheme == "light" else ("#ffffff", "#000000")
    return {
        "background": colour["paper"],
        "params": [{"name": "deep", "value": DEEP[scheme]}],
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": colour["ink"],
            "titleColor": colour["soft"],
            "titleFontWeight": "normal",
            "gridColor": colour["line"],
            "domainColor": colour["line"],
            "tickColor": colour["line"],
            "labelLimit": 220,
        },
        "legend": {"labelColor": colour["soft"], "titleColor": colour["soft"], "titleFontWeight": "normal"},
        "title": {"color": colour["soft"], "anchor": "start", "fontSize": 12, "fontWeight": "normal"},
        "header": {"labelColor": colour["soft"], "titleColor": colour["soft"]},
        "text": {"color": colour["ink"]},
        "range": {"diverging": [colour["loss"], colour["middle"], colour["gain"]]},
        "style": {
            "gain": {"color": colour["gain"], "opacity": 0.85},
            "loss": {"color": colour["loss"], "opacity": 0.85},
            "plain": {"color": colour["soft"], "opacity": 0.45},
            "whisker": {"color": colour["ink"], "strokeWidth": 1.5},
            "thin": {"color": colour["soft"], "strokeWidth": 1},
            "dot": {"color": colour["gain"], "size": 70, "opacity": 1},
            "mark": {"color": colour["loss"], "thickness": 2.5},
            "hatch": {"color": colour["hatch"], "strokeWidth": 1, "opacity": 1},
            "border": {"color": colour["paper"], "strokeWidth": 3},
            "chosen": {"stroke": colour["ink"], "strokeWidth": 2, "fillOpacity": 0},
            "sure": {"color": ink, "opacity": 1},
            "sure-deep": {"color": deep, "opacity": 1},
            "number": {"color": ink, "fontSize": 11},
            "number-deep": {"color": deep, "fontSize": 11},
            "head": {"color": colour["ink"], "fontWeight": "bold", "fontSize": 10, "lineHeight": 11},
            "label": {"color": colour["ink"], "fontSize": 11},
            "soft": {"color": colour["soft"], "fontSize": 11},
        },
    }
