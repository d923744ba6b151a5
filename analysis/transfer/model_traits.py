"""Family and size of a model: from the configuration, else read off its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from transfergrid.config.settings import ModelConfig

FAMILIES = ("llama", "qwen", "gemma", "smollm", "mistral", "phi", "olmo", "falcon", "granite")
"""Families that are recognised in a name."""

UNKNOWN = "unknown"
"""Family or size class of a model whose name does not say it."""

SMALL_B, LARGE_B = 1.5, 7.0
"""Bounds of the study's size classes, in billions of parameters: <=1.5B, <7B, >=7B."""

_SIZE_PATTERN = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")


def family_of(name: str) -> str:
    """Return the family a model's name contains, or ``unknown``."""
    lowered = name.lower()
    return next((family for family in FAMILIES if family in lowered), UNKNOWN)


def size_b_of(name: str) -> float | None:
    """Return the size in a model's name in billions of parameters: ``-1B-`` 1.0, ``0.5B`` 0.5, ``135m`` 0.135."""
    found = _SIZE_PATTERN.search(name.lower())
    if found is None:
        return None
    number, unit = found.groups()
    return float(number) if unit == "b" else float(number) / 1000


def size_class(size_b: float | None) -> str:
    """Return the study's size class of a size in billions of parameters."""
    if size_b is None:
        return UNKNOWN
    if size_b <= SMALL_B:
        return f"<={SMALL_B:g}B"
    return f"<{LARGE_B:g}B" if size_b < LARGE_B else f">={LARGE_B:g}B"


def traits_frame(
    names: Iterable[str], configured: Sequence[ModelConfig] = (), sizes_b: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """Return one row per model: model, family, size_b (billions of parameters), size (the size class).

    A trait is what the configuration says, else what an imported table gives (``sizes_b``), else what the name says.
    """
    rows = []
    for name in sorted(set(names)):
        config = next((model for model in configured if model.name == name), None)
        family = (config.family if config else None) or family_of(name)
        size_b = (config.size_b if config else None) or (sizes_b or {}).get(name) or size_b_of(name)
        rows.append((name, family.lower(), size_b, size_class(size_b)))
    schema = {"model": pl.String, "family": pl.String, "size_b": pl.Float64, "size": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")
