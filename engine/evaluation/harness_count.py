"""Values of items that lm-evaluation-harness counts: several right choices, or a function of the task."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.metrics import METRICS, ScoringError
from transfergrid.store.files import hash_files
from transfergrid.wording import one_line


class _NotKnown:
    """Stands where the harness says whether greedy decoding would give a choice."""

    def __bool__(self) -> bool:
        raise ScoringError("it asks whether greedy decoding would give a choice, which a cell does not know")


def count_answer(item: Item, sums: Sequence[float]) -> float:
    """Return the value of one item in 0..1.

    Args:
        item: Says how it is counted.
        sums: Shape [C]: log-likelihood of every choice, in nats.

    Raises:
        ScoringError: If the task's function is not there or has changed, fails, or gives something else.

    Source:
        ``ConfigurableTask.process_results`` in lm_eval/api/task.py of lm-evaluation-harness 0.4.13.
    """
    how = json.loads(item.counted)
    if "golds" in how:
        return float(METRICS[how["metric"]].pick(sums, item.choices) in how["golds"])
    name = f"{how['function']} of {item.code!r}"
    function = _function(item.code, how["function"], how["sha256"])
    try:
        value = function(how["document"], [(value, _NotKnown()) for value in sums])[how["metric"]]
        value = float(value)
    except Exception as error:  # it may do anything
        raise ScoringError(f"{name} fails: {type(error).__name__}: {one_line(error)}; leave its task out") from error
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ScoringError(f"{name} gives {how['metric']} {value!r}; expected a number from 0 to 1, leave its task out")
    return value


@cache
def _function(path: str, name: str, sha256: str) -> Callable[[Any, Any], Any]:
    if not Path(path).is_file() or hash_files([Path(path)]) != sha256:
        raise ScoringError(f"{path!r}, which counts answers, is not there or has changed; run 'grid data' again")
    spec = importlib.util.spec_from_file_location(f"lm_eval_counts_{sha256[:16]}", path)
    assert spec is not None and spec.loader is not None  # a file of Python code
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function: Callable[[Any, Any], Any] = getattr(module, name)
    except Exception as error:  # it may do anything
        raise ScoringError(f"{path!r} cannot be imported: {type(error).__name__}: {one_line(error)}") from error
    return function
