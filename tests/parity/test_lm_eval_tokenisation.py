"""Every request's tokens against those lm-evaluation-harness feeds its hf backend, for three families' tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.tokenizers import STYLES
from tests.parity.harness import CELLS, load_cell, run_harness
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.models.tokenizer import TokenisationSettings
from transfergrid.engine.planning.tokenisation import tokenise_items

N_ITEMS = 32
Tokens = tuple[int, ...]


def make_recorder(model: Path, tokenizer: Any) -> Any:
    """Return lm-evaluation-harness's hf backend, which notes the tokens of every request instead of scoring them."""
    from lm_eval.models.huggingface import HFLM

    class Recorder(HFLM):
        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            self.seen: dict[tuple[str, str], tuple[Tokens, Tokens]] = {
                texts: (tuple(context), tuple(continuation)) for texts, context, continuation in requests
            }
            return [(-1.0, False)] * len(requests)

    return Recorder(pretrained=str(model), tokenizer=tokenizer, device="cpu", dtype="float32")


@pytest.mark.parametrize("chat_template", [False, True])
@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_request_has_the_harness_tokens(
    style: str, chat_template: bool, tiny_llama: Path, harness_cache: Path
) -> None:
    tokenizer = STYLES[style]()
    recorder = make_recorder(tiny_llama, tokenizer)
    theirs = run_harness(recorder, CELLS, harness_cache, chat_template=chat_template, n_items=N_ITEMS)
    settings = TokenisationSettings(max_length=10_000, chat_template=chat_template)
    n_requests = 0
    for cell in CELLS:
        tokenised = tokenise_items(tokenizer, load_cell(cell, N_ITEMS), settings)
        for ours, item in zip(tokenised.results, theirs[cell], strict=True):
            assert isinstance(ours, TokenisedItem)
            assert ours.item_id == item.item_id
            expected = [recorder.seen[request] for request in item.requests]
            assert [(ours.context, continuation) for continuation in ours.continuations] == expected
            n_requests += len(expected)
    assert n_requests >= len(CELLS) * N_ITEMS * 3
