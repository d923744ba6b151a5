"""Values of items that lm-evaluation-harness counts: several right choices, a function of the task, perplexities."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from transfergrid.benchmarks.harness.index import require_harness
from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.metrics import AGGREGATIONS, METRICS, ScoringError
from transfergrid.grid import UserError
from transfergrid.store.files import hash_files
from transfergrid.wording import one_line


class _NotKnown:
    """Stands where the harness says whether greedy decoding would give a choice."""

    def __bool__(self) -> bool:
        raise ScoringError("it asks whether greedy decoding would give a choice, which a cell does not know")


class Counted(NamedTuple):
    """What the harness makes of one item's answer."""

    value: float
    """0..1."""
    results: dict[str, tuple[str, Any]]
    """Of tasks whose metrics are more than means: by metric, how values of items become one number (a name in
    `AGGREGATIONS`), and what the item adds to it."""


def count_answer(item: Item, sums: Sequence[float], are_greedy: Sequence[bool] | None = None) -> Counted:
    """Return the value of one item, and what it adds to the harness' own numbers.

    Args:
        item: Says how it is counted.
        sums: Shape [C] or [R]: log-likelihood of every choice or request, in nats.
        are_greedy: Whether greedy decoding would give each; None: not known.

    Raises:
        ScoringError: If the task's function is not there or has changed, fails, or gives something else.

    Source:
        ``ConfigurableTask.process_results`` in lm_eval/api/task.py of lm-evaluation-harness 0.4.13.
    """
    how = json.loads(item.counted)
    metric, aggregations = how["metric"], how.get("aggregations", {})
    if "golds" in how and not aggregations:
        return Counted(float(METRICS[metric].pick(sums, item.choices) in how["golds"]), {})
    name = f"{how['function']} of {item.code!r}" if item.code else "lm-evaluation-harness"
    try:
        given = _results(item, how, sums, are_greedy)
        results = {each: (combine, given[each]) for each, combine in aggregations.items() if each in given}
        value = AGGREGATIONS[aggregations.get(metric, "mean")].of_item(given[metric])
    except UserError:
        raise
    except Exception as error:  # it may do anything
        raise ScoringError(f"{name} fails: {type(error).__name__}: {one_line(error)}; leave its task out") from error
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ScoringError(f"{name} gives {metric} {value!r}; expected a number from 0 to 1, leave its task out")
    return Counted(value, results)


def _results(
    item: Item, how: Mapping[str, Any], sums: Sequence[float], are_greedy: Sequence[bool] | None
) -> Mapping[str, Any]:
    """Return what the task's own function, or the harness' own code, says of an item."""
    if how.get("kind") == "loglikelihood_rolling":
        answers: list[Any] = list(sums)
    elif are_greedy is not None:
        answers = list(zip(sums, are_greedy, strict=True))
    else:
        answers = [(value, _NotKnown() if item.code else False) for value in sums]
    if item.code:
        found: Mapping[str, Any] = _function(item.code, how["function"], how["sha256"])(how["document"], answers)
        return found
    require_harness()
    from lm_eval.api.task import ConfigurableTask

    gold = how.get("golds", item.gold)
    target = gold if how["kind"] == "multiple_choice" else item.choices[0]
    task = SimpleNamespace(
        config=SimpleNamespace(process_results=None),
        OUTPUT_TYPE=how["kind"],
        _metric_fn_list=how["aggregations"],
        multiple_input=0,
        multiple_target="golds" in how,
        doc_to_choice=lambda _: list(item.choices),
        doc_to_target=lambda _: target,
        count_words=ConfigurableTask.count_words,
        count_bytes=ConfigurableTask.count_bytes,
    )
    counted: Mapping[str, Any] = ConfigurableTask.process_results(task, None, answers)
    return counted


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
