"""Codes of languages that are not the study's."""

from __future__ import annotations

import pycountry

from transfergrid.grid import Cell, UserError


def is_language_code(code: str) -> bool:
    """Whether a code, without its script or region, is an ISO 639-1 or 639-3 language."""
    try:
        Cell("task", code)
    except UserError:
        return False
    plain = code.partition("_")[0]
    key = "alpha_2" if len(plain) == 2 else "alpha_3"
    return pycountry.languages.get(**{key: plain}) is not None
