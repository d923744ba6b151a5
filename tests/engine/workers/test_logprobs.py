"""Log-probabilities in chunks equal the plain formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transfergrid.engine.workers import logprobs
from transfergrid.engine.workers.logprobs import ScoredRows, chunk_rows, piece_rows, token_logprobs

VOCABULARY, WIDTH = 97, 16


def scored_rows(rows: torch.Tensor, tokens: torch.Tensor) -> ScoredRows:
    distinct, owners = torch.unique_consecutive(rows, return_inverse=True)
    starts = torch.searchsorted(owners, torch.arange(len(distinct) + 1))
    return ScoredRows(distinct, owners, tokens, starts.numpy())


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def head() -> torch.Tensor:
    return 3 * torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("piece_bytes", [1, 17 * 4 * VOCABULARY, 10**9])
@pytest.mark.parametrize("chunk_bytes", [1, 39 * 4 * VOCABULARY, 10**9])
def test_chunks_give_what_one_softmax_gives(
    hidden: torch.Tensor, head: torch.Tensor, chunk_bytes: int, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CPU_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(logprobs, "CPU_PIECE_BYTES", piece_bytes)
    rows = torch.tensor([0, 0, 0, *range(3, 45), 45, 45, 49])
    tokens = torch.arange(len(rows)) * 7 % VOCABULARY
    n_projected = 0

    def compute_logits(chunk: torch.Tensor) -> torch.Tensor:
        nonlocal n_projected
        n_projected += len(chunk)
        return chunk @ head.t()

    scored = token_logprobs(hidden, scored_rows(rows, tokens), compute_logits=compute_logits, vocab_size=VOCABULARY)
    expected = (hidden.double() @ head.double().t()).log_softmax(-1)[rows, tokens]
    assert scored is not None
    assert torch.allclose(scored.double(), expected, atol=1e-5)
    assert n_projected == len(rows.unique())


def test_greedy_choices_are_the_most_likely_tokens_of_their_rows(
    hidden: torch.Tensor, head: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CPU_CHUNK_BYTES", 1)
    best = (hidden @ head.t()).argmax(dim=-1)
    rows = torch.arange(50).repeat_interleave(2)
    tokens = torch.stack((best, (best + 1) % VOCABULARY), dim=1).flatten()
    asked: dict[str, Any] = {"compute_logits": lambda chunk: chunk @ head.t(), "vocab_size": VOCABULARY}
    plain = token_logprobs(hidden, scored_rows(rows, tokens), **asked)
    both = token_logprobs(hidden, scored_rows(rows, tokens), greedy=True, **asked)
    assert plain is not None and both is not None
    assert torch.equal(both[: len(rows)], plain)
    assert both[len(rows) :].tolist() == [1.0, 0.0] * 50


def test_rows_may_come_in_any_order_as_long_as_equal_ones_are_neighbours(
    hidden: torch.Tensor, head: torch.Tensor
) -> None:
    rows, tokens = torch.tensor([9, 9, 2, 40, 3]), torch.tensor([1, 2, 3, 4, 5])
    scored = token_logprobs(
        hidden, scored_rows(rows, tokens), compute_logits=lambda chunk: chunk @ head.t(), vocab_size=VOCABULARY
    )
    assert scored is not None
    assert torch.allclose(scored, (hidden @ head.t()).log_softmax(-1)[rows, tokens], atol=1e-5)


def test_softmax_of_half_precision_logits_is_float32(hidden: torch.Tensor, head: torch.Tensor) -> None:
    def compute_logits(chunk: torch.Tensor) -> torch.Tensor:
        return (chunk @ head.t()).bfloat16()

    rows = tokens = torch.arange(20)
    scored = token_logprobs(hidden, scored_rows(rows, tokens), compute_logits=compute_logits, vocab_size=VOCABULARY)
    assert scored is not None
    assert scored.dtype == torch.float32
    assert torch.allclose(scored, compute_logits(hidden[:20]).float().log_softmax(-1)[rows, tokens], atol=1e-5)


def test_rank_without_logits_gives_none(hidden: torch.Tensor) -> None:
    rows = torch.arange(3)
    assert (
        token_logprobs(hidden, scored_rows(rows, rows), compute_logits=lambda chunk: None, vocab_size=VOCABULARY)
        is None
    )


def test_chunks_fit_their_budget_but_hold_sixteen_rows() -> None:
    assert chunk_rows(49152, torch.device("cpu")) * 49152 * 4 <= logprobs.CPU_CHUNK_BYTES
    assert chunk_rows(10**9, torch.device("cpu")) == 16
    assert chunk_rows(49152, torch.device("cpu")) % piece_rows(49152, torch.device("cpu")) == 0
