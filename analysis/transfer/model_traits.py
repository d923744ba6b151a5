"""Family and size of a model: from the configuration, else read off its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from transfergrid.config.settings import ModelConfig

FAMILIES = ("llama", "qwen", "gemma", "smollm", "mistral", "phi", "olmo", "falcon", "granite")
"""Families that are recognised in a name."""

UNKNOWN = "unknown"
"""Family or size class of a model whose name does not say it."""

SMALL_B, LARGE_B = 1.5, 7.0
"""Bounds of the study's size classes, in billions of parameters: <=1.5B, <7B, >=7B."""

_SIZE_PATTERN = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What a model is grouped by."""

    name: str
    family: str
    """Lower-case family name or ``unknown``."""
    size_b: float | None
    """Billions of parameters; None: the name does not say."""

    @property
    def size_class(self) -> str:
        """``<=1.5B``, ``<7B``, ``>=7B`` or ``unknown``."""
        return size_class(self.size_b)


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


def traits_of(
    name: str, configured: Sequence[ModelConfig] = (), sizes_b: Mapping[str, float] | None = None
) -> ModelTraits:
    """Return a model's traits: what its configuration says, else an imported table, else its name.

    Args:
        name: The model's name.
        configured: Models of the configuration.
        sizes_b: Sizes that imported tables give, in billions of parameters.
    """
    config = next((model for model in configured if model.name == name), None)
    family = config.family if config is not None else None
    known = (config.size_b if config is not None else None, (sizes_b or {}).get(name), size_b_of(name))
    return ModelTraits(name, (family or family_of(name)).lower(), next((size for size in known if size), None))


def traits_frame(
    names: Iterable[str], configured: Sequence[ModelConfig] = (), sizes_b: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """Return one row per model: model, family, size_b, size (the size class)."""
    traits = [traits_of(name, configured, sizes_b) for name in sorted(set(names))]
    return pl.DataFrame(
        [(each.name, each.family, each.size_b, each.size_class) for each in traits],
        schema={"model": pl.String, "family": pl.String, "size_b": pl.Float64, "size": pl.String},
        orient="row",
    )
