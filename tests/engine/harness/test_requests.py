"""Requests of the harness: encoded as it does, planned once, answered in order, refused in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.fake_scorer import FakeScorer
from tests.models import make_tiny_tokenizer
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.harness import requests
from transfergrid.engine.harness.requests import RequestScorer, encode_pairs
from transfergrid.engine.interfaces import Adapter, ItemLoglikelihoods, Prepared
from transfergrid.engine.models.tokenizer import encode_texts, load_tokenizer
from transfergrid.grid import UserError


class GreedyScorer(FakeScorer):
    """A scorer without a model that says, too, what greedy decoding would give: continuations of one token."""

    sizes = SimpleNamespace(max_model_len=64)

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        for result in super().score(prepared, adapter):
            (continuation,) = prepared.items[result.index].continuations  # type: ignore[attr-defined]
            yield replace(result, are_greedy=(len(continuation) == 1,) if greedy else None)


def make_requests(tokenizer: Any = None, **settings: Any) -> RequestScorer:
    return RequestScorer(GreedyScorer(**settings), tokenizer, Path("tiny"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return load_tokenizer(tiny_llama)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_pairs_are_encoded_as_the_harness_encodes_them(family: str, tmp_path: Path) -> None:
    from lm_eval.api.model import TemplateLM

    tokenizer = make_tiny_tokenizer(tmp_path, family)
    start = tokenizer.bos_token or tokenizer.eos_token

    class Peer(TemplateLM):  # type: ignore[misc]
        eot_token_id, prefix_token_id = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(start)
        loglikelihood_rolling = generate_until = None

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            special = not string.startswith(start) if add_special_tokens is None else add_special_tokens
            return list(tokenizer.encode(string, add_special_tokens=special))

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
            return [(tuple(context), tuple(continuation)) for _, context, continuation in requests]

    pairs = [("Q: a\nA:", " the"), ("Q: a\nA:", " then"), ("Q: b ", "the"), ("", "the end"), ("", f"{start}x")]
    pairs += [(f"{start}A:\n", "A"), ("Ünïcode 的", "的"), ("x", "er"), ("the", " the")]
    asked = [SimpleNamespace(args=pair) for pair in pairs]
    encoded, n_not_prefix = encode_pairs(tokenizer, pairs)
    assert encoded == Peer().loglikelihood(asked, disable_tqdm=True)
    assert n_not_prefix == sum(
        tuple(tokenizer.encode(context + text))[: len(ids)] != ids
        for (context, text), (ids, _) in zip(pairs, encoded, strict=True)
        if context == context.rstrip() != "" and not context.startswith(start)
    )
    texts = ["the cat", f"{start}the cat", ""]
    assert [list(tokens) for tokens in encode_texts(tokenizer, texts)] == [Peer().tok_encode(text) for text in texts]


def test_requests_are_planned_once_and_answered_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_PLAN_TOKENS", 7)
    scorer, made = make_requests(), []
    pairs = [(tuple(range(number + 1)), (number,) * (1 + number % 2)) for number in range(9)]

    def encode() -> Any:
        made.append(1)
        return pairs, 3

    answers, counts = scorer.score("key", encode, None)
    alone = [make_requests().score("key", lambda pair=pair: ([pair], 0), None)[0][0] for pair in pairs]
    assert answers == alone
    assert [answer.is_greedy for answer in answers] == [len(continuation) == 1 for _, continuation in pairs]
    assert scorer.score("key", encode, None) == (answers, counts)
    assert (made, counts.n_requests, counts.n_not_prefix, counts.n_truncated) == ([1], 9, 3, 0)
    for number in range(requests._KEPT_PLANS):
        scorer.score(f"other {number}", encode, None)
    scorer.score("key", encode, None)
    assert len(made) == 2 + requests._KEPT_PLANS  # the oldest plan was let go


def test_a_long_context_is_cut_on_the_left_and_counted() -> None:
    scorer = make_requests()
    long, short = (tuple(range(100)), (7, 8)), (tuple(range(37, 100)), (7, 8))
    (cut, whole), counts = scorer.score("key", lambda: ([long, short], 0), None)
    assert cut == whole  # 63 + 2 - 1 tokens of inputs are the most
    assert counts.n_truncated == 1


@pytest.mark.parametrize("n_tokens", [0, 65])
def test_a_continuation_without_tokens_or_too_long_is_refused(n_tokens: int) -> None:
    with pytest.raises(UserError, match=rf"request 1 of 2 has a continuation of {n_tokens} tokens; expected 1 to 64"):
        make_requests().score("key", lambda: ([((1,), (2,)), ((1,), (3,) * n_tokens)], 0), None)


def test_a_log_likelihood_that_is_not_finite_is_an_error() -> None:
    scorer = make_requests(function=lambda item, choice, adapter: math.nan)
    with pytest.raises(ScoringError, match="the log-likelihood of request 0 under the base of model 'tiny' is nan"):
        scorer.score("key", lambda: ([((1,), (2,))], 0), None)
