"""Requests of lm-evaluation-harness, (context, continuation) pairs, planned once and scored under every adapter."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import Adapter, TokenisedItem
from transfergrid.engine.models.tokenizer import encode_items
from transfergrid.engine.scorers.passes import PreparedSteps
from transfergrid.engine.scorers.vllm import VllmScorer
from transfergrid.grid import UserError

MODEL_NAME = "transfergrid"
"""Name of our engine among the harness' models, and of what we add to its results files."""

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Context and continuation."""

_PLAN_TOKENS = 2_000_000
"""Tokens of one plan, contexts repeated; a plan takes some tens of bytes per token while it is made."""
_KEPT_PLANS = 4
"""Lists of requests whose plans are kept for the next adapter: more than a task has kinds of requests."""


class Answer(NamedTuple):
    """What the model says to one request."""

    loglikelihood_nats: float
    is_greedy: bool
    """Whether greedy decoding would give just this continuation."""


class RequestCounts(NamedTuple):
    """What happened to some requests on their way to tokens."""

    n_requests: int = 0
    n_not_prefix: int = 0
    """Their context, encoded alone, is not the start of the joint encoding; they are cut by its length."""
    n_truncated: int = 0
    """Their context was cut on the left."""
    n_computed_tokens: int = 0
    n_repeated_tokens: int = 0
    """Tokens a pass would compute if every request repeated its context."""


class _Planned(NamedTuple):
    parts: tuple[PreparedSteps, ...]
    counts: RequestCounts


@dataclass(slots=True)
class RequestScorer:
    """One base model in memory that answers the harness' requests under the base or any adapter."""

    scorer: VllmScorer
    tokenizer: Any
    folder: Path
    """Of the base model."""
    engine_s: float = 0.0
    """Time spent on tokenising, planning and scoring so far."""
    _plans: dict[str, _Planned] = field(default_factory=dict, init=False)

    @property
    def max_length(self) -> int:
        """Most tokens of one sequence of inputs."""
        return self.scorer.sizes.max_model_len

    def score(
        self, key: str, encode: Callable[[], tuple[list[TokenPair], int]], adapter: Adapter | None
    ) -> tuple[list[Answer], RequestCounts]:
        """Return the answers to some requests, in their order, and what was counted.

        Args:
            key: Hash of the requests; the same ones are encoded and planned once.
            encode: Returns their tokens, and how many are not cut at the end of their context.
            adapter: None is the base.

        Raises:
            UserError: If a continuation has no tokens, or more than fit.
            ScoringError: If a log-likelihood is not finite.
            AdapterError: If the adapter cannot be applied.
        """
        started = time.perf_counter()
        if key not in self._plans:
            self._plans[key] = self._plan(*encode())
            for oldest in list(self._plans)[:-_KEPT_PLANS]:
                del self._plans[oldest]
        planned, answers = self._plans[key], list[Answer]()
        for prepared in planned.parts:
            answers += self._run(prepared, adapter, first=len(answers))
        self.engine_s += time.perf_counter() - started
        return answers, planned.counts

    def _plan(self, pairs: Sequence[TokenPair], n_not_prefix: int) -> _Planned:
        items, n_truncated = [], 0
        for number, (context, continuation) in enumerate(pairs):
            excess = len(context) + len(continuation) - (self.max_length + 1)
            if not continuation or len(continuation) > self.max_length:
                raise UserError(
                    f"request {number} of {len(pairs)} has a continuation of {len(continuation)} tokens; expected 1 to "
                    f"{self.max_length}; correct the task, or raise engine.max_model_len"
                )
            n_truncated += excess > 0
            kept = tuple(context[max(excess, 0) :])
            items.append(TokenisedItem(item_id=str(number), context=kept, continuations=(tuple(continuation),)))
        parts = tuple(map(self.scorer.prepare, _batches(items)))
        return _Planned(
            parts,
            RequestCounts(
                len(items),
                n_not_prefix,
                n_truncated,
                sum(part.n_computed_tokens for part in parts),
                sum(part.n_repeated_tokens for part in parts),
            ),
        )

    def _run(self, prepared: PreparedSteps, adapter: Adapter | None, *, first: int) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for result in self.scorer.score(prepared, adapter, greedy=True):
            (value,), (is_greedy,) = result.loglikelihoods_nats, result.are_greedy or (False,)
            if not math.isfinite(value):
                source = "the base" if adapter is None else f"adapter {adapter.name!r}"
                raise ScoringError(
                    f"the log-likelihood of request {first + result.index} under {source} of model "
                    f"{self.folder.name!r} is {value}; try engine.dtype: float32"
                )
            answers[result.index] = Answer(value, is_greedy)
        return [answers[index] for index in range(prepared.n_items)]


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> tuple[list[TokenPair], int]:
    """Encode (context, continuation) texts as the harness does, neighbours with one context together.

    Returns:
        Tokens per pair, and how many are cut by the length of a context that is not the start of the joint encoding.

    Raises:
        UserError: If a context is empty and the tokenizer has no token to stand for it.
    """
    groups = [(context, [text for _, text in group]) for context, group in itertools.groupby(pairs, itemgetter(0))]
    encoded = encode_items(tokenizer, [context for context, _ in groups], [texts for _, texts in groups])
    tokens, n_not_prefix = list[TokenPair](), 0
    for item in encoded:
        tokens += [(item.context, continuation) for continuation in item.continuations]
        n_not_prefix += item.n_not_prefix
    return tokens, n_not_prefix


def _batches(items: Sequence[TokenisedItem]) -> Iterator[Sequence[TokenisedItem]]:
    """Yield the items in runs of about ``_PLAN_TOKENS`` tokens."""
    start, n_tokens = 0, 0
    for end, item in enumerate(items, start=1):
        n_tokens += len(item.context) + len(item.continuations[0])
        if n_tokens >= _PLAN_TOKENS:
            yield items[start:end]
            start, n_tokens = end, 0
    if start < len(items):
        yield items[start:]
