"""How lm-evaluation-harness counts the answers to a task: which of its metrics is the score, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.benchmarks.metrics import AGGREGATIONS
from transfergrid.grid import UserError
from transfergrid.store.files import hash_files

_PLAIN = ("acc_norm", "acc")
_MUTUAL_INFO = "acc_mutual_info"
_PERPLEXITIES = ("byte_perplexity", "bits_per_byte", "word_perplexity")
_BY_LENGTH = ("acc_norm", "acc_bytes")
"""Metrics that divide by the length of the choice, which is not what is scored where the choices are prompts."""
_OTHERS = (_MUTUAL_INFO, "acc_bytes", *_PERPLEXITIES, "perplexity")
"""Metrics that are the score where there is none before them."""
_BY_KIND: Mapping[str, Sequence[str]] = {
    "multiple_choice": (*_PLAIN, _MUTUAL_INFO, "acc_bytes"),
    "loglikelihood": ("acc", "perplexity"),
    "loglikelihood_rolling": _PERPLEXITIES,
}
"""Metrics that the harness' own code counts, by output_type; exact_match of choices and F values are left out."""
KINDS = tuple(_BY_KIND)


class Counting(NamedTuple):
    """How the answers to a task's documents are counted."""

    metric: str
    """The harness' name of what is the score."""
    aggregations: Mapping[str, str]
    """How the harness makes one number of each of the task's metrics, by metric."""
    function: Mapping[str, str]
    """File, name and hash of the task's own function; empty: it has none."""
    kind: str
    """The harness' output_type."""
    asks_twice: bool
    """Whether every choice is asked once more without a context."""

    @property
    def is_plain(self) -> bool:
        """Whether choices are compared by acc or acc_norm, which needs nothing of the harness."""
        return self.kind == "multiple_choice" and self.metric in _PLAIN and not self.function

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every value is 0 or 1, by the harness' own code."""
        return self.aggregations[self.metric] == "mean" and not self.function

    @property
    def parts(self) -> dict[str, Any]:
        """What an item says of it, as JSON."""
        is_mean = self.aggregations[self.metric] == "mean"
        if self.kind == "multiple_choice" and is_mean and (self.function or self.metric in _PLAIN):
            return {"metric": self.metric, **self.function}
        return {"metric": self.metric, **self.function, "kind": self.kind, "aggregations": dict(self.aggregations)}


def counting_of(name: str, task: Any, wanted: str | None) -> Counting:
    """Return how a task is counted: by a wanted metric, else acc_norm, acc, its function's first mean, or another.

    Raises:
        UserError: If it has no such metric, or its function cannot be found again by its file and name.
    """
    function = task.config.process_results
    own = _function(name, function) if callable(function) else {}
    known = {
        metric: combine
        for metric, each in task.aggregation().items()
        if (combine := getattr(each, "__name__", "")) in AGGREGATIONS
        and (combine != "mean" or task.higher_is_better().get(metric, True))
        and (own or metric in _BY_KIND[task.OUTPUT_TYPE])
        and not (task.multiple_input and metric in _BY_LENGTH)
    }
    means = [metric for metric, combine in known.items() if combine == "mean"] if own else []
    order = [metric for metric in (*_PLAIN, *means, *_OTHERS) if metric in known]
    measured = f"task {name!r} of lm-evaluation-harness is measured by {list(task.aggregation())}"
    if not order:
        raise UserError(
            f"{measured}, and a cell takes 'acc_norm', 'acc', 'acc_mutual_info', 'acc_bytes', perplexities, or a mean "
            "of its own function of which higher is better; 'grid lm-eval' runs it"
        )
    if wanted not in (None, *known):
        raise UserError(f"{measured}, not by {wanted!r}; set its 'metric' to one of {list(known)}")
    metric = wanted or order[0]
    twice = _MUTUAL_INFO in task.aggregation() and (bool(own) or metric == _MUTUAL_INFO)
    kept = {each: combine for each, combine in known.items() if own or twice or each != _MUTUAL_INFO}
    return Counting(metric, kept, own, task.OUTPUT_TYPE, twice)


def _function(name: str, function: Any) -> dict[str, str]:
    code = getattr(function, "__code__", None)
    if code is None or not function.__name__.isidentifier() or not Path(code.co_filename).is_file():
        raise UserError(f"process_results of task {name!r} is no function in a file; 'grid lm-eval' runs the task")
    path = Path(code.co_filename).resolve()
    return {"code": str(path), "function": function.__name__, "sha256": hash_files([path])}
