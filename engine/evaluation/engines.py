"""The ways to score by the name that ``grid eval --engine`` takes."""

from __future__ import annotations

from collections.abc import Callable

from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.through_server import connect
from transfergrid.engine.scorers import multi_lora, public, reference, sequential
from transfergrid.engine.work.request import ChosenEngine, EngineOptions, EvalRequest
from transfergrid.grid import UserError
from transfergrid.wording import closest_hint


def _reference(config: GridConfig, request: EvalRequest, options: EngineOptions) -> ChosenEngine:
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
    in_float32 = config.model_copy(update={"engine": engine.model_copy(update={"dtype": "float32"})})
    return ChosenEngine(reference.Reference(), in_float32, request)


ENGINES: dict[str, Callable[[GridConfig, EvalRequest, EngineOptions], ChosenEngine]] = {
    "vllm": lambda config, request, _: ChosenEngine(multi_lora.MultiLora(config.engine), config, request),
    "sequential": lambda config, request, _: ChosenEngine(sequential.Sequential(config.engine), config, request),
    "public": lambda config, request, _: ChosenEngine(public.Public(config.engine), config, request),
    "reference": _reference,
    "server": connect,
}
"""One more way to score is one more entry here."""


def choose_engine(config: GridConfig, request: EvalRequest, options: EngineOptions) -> ChosenEngine:
    """Return the maker of scorers that is asked for.

    Raises:
        UserError: If there is none of that name, or it cannot do what is asked for.
    """
    name = options.name
    if name not in ENGINES:
        raise UserError(
            f"unknown engine {name!r}{closest_hint(name, tuple(ENGINES))}; expected one of {sorted(ENGINES)}"
        )
    return ENGINES[name](config, request, options)
