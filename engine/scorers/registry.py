"""The makers of scorers by the name that ``grid eval --engine`` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from transfergrid.config.settings import GridConfig
from transfergrid.engine.interfaces import Backend
from transfergrid.engine.scorers import multi_lora, public, reference, sequential
from transfergrid.grid import UserError
from transfergrid.wording import closest_hint


class ChosenEngine(NamedTuple):
    """A maker of scorers, and the configuration as it computes."""

    backend: Backend
    config: GridConfig


def _vllm(config: GridConfig) -> ChosenEngine:
    return ChosenEngine(multi_lora.MultiLora(config.engine), config)


def _sequential(config: GridConfig) -> ChosenEngine:
    return ChosenEngine(sequential.Sequential(config.engine), config)


def _public(config: GridConfig) -> ChosenEngine:
    return ChosenEngine(public.Public(config.engine), config)


def _reference(config: GridConfig) -> ChosenEngine:
    """Return the reference in float32.

    Raises:
        UserError: If another number format or a quantisation is configured.
    """
    engine = config.engine
    if engine.dtype not in ("auto", "float32") or engine.quantization is not None:
        raise UserError(
            f"--engine reference computes in float32, and engine.dtype is {engine.dtype!r}, engine.quantization "
            f"{engine.quantization!r}; set engine.dtype: float32 and no quantization"
        )
    return ChosenEngine(
        reference.Reference(), config.model_copy(update={"engine": engine.model_copy(update={"dtype": "float32"})})
    )


ENGINES: dict[str, Callable[[GridConfig], ChosenEngine]] = {
    "vllm": _vllm,
    "sequential": _sequential,
    "public": _public,
    "reference": _reference,
}
"""One more way to score is one more entry here."""


def choose_engine(name: str, config: GridConfig) -> ChosenEngine:
    """Return the maker of scorers of a name.

    Raises:
        UserError: If there is none of that name, or it cannot compute what is configured.
    """
    if name not in ENGINES:
        raise UserError(
            f"unknown engine {name!r}{closest_hint(name, tuple(ENGINES))}; expected one of {sorted(ENGINES)}"
        )
    return ENGINES[name](config)
