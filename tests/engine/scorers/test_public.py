"""vLLM's public interface gives what transformers and peft give, for base and adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.scorers.test_vllm import TOLERANCE, largest_difference, random_items, reference
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.null import make_null_adapter
from transfergrid.engine.interfaces import Adapter, AdapterError, TokenisedItem
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.public import Public, PublicScorer, start_public
from transfergrid.engine.scorers.vllm import VllmScorer
from transfergrid.grid import UserError

CONFIG = EngineConfig(dtype="float32", token_budget=256, kv_cache_gib=0.05, max_loras=2)


@pytest.fixture(scope="module")
def adapters(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> list[Adapter]:
    null = make_null_adapter(tiny_llama, tmp_path_factory.mktemp("null"))
    return [
        check_adapter(folder, read_linear_shapes(tiny_llama), name=folder.name) for folder in (*tiny_adapters[:2], null)
    ]


@pytest.fixture(scope="module")
def scorer(tiny_llama: Path) -> Iterator[PublicScorer]:
    scorer = start_public(tiny_llama, CONFIG, max_rank=8, longest_tokens=200)
    yield scorer
    scorer.close()


def loglikelihoods(scorer: PublicScorer, items: list[TokenisedItem], adapter: Adapter | None) -> list[list[float]]:
    results = list(scorer.score(scorer.prepare(items), adapter))
    assert [result.index for result in results] == list(range(len(items)))
    return [list(result.loglikelihoods_nats) for result in results]


@pytest.mark.engine
def test_base_and_adapters_score_as_with_transformers_and_peft(
    scorer: PublicScorer, tiny_llama: Path, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfergrid.engine.scorers.public._ITEMS_AT_ONCE", 2)
    items = random_items(11, 3)
    base = loglikelihoods(scorer, items, None)
    for source in (None, *adapters):
        scores = loglikelihoods(scorer, items, source)
        assert largest_difference(scores, reference(tiny_llama, items, source)) < TOLERANCE
        assert (largest_difference(scores, base) > 0.1) == (source is not None and source.strength > 0)


@pytest.mark.engine
def test_an_adapter_that_changes_nothing_is_refused(
    scorer: PublicScorer, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = replace(adapters[2], name="silent", content_hash="of another adapter", strength=1e-9)
    monkeypatch.setattr("transfergrid.engine.scorers.public.require_unchanged", lambda adapter: None)
    with pytest.raises(AdapterError, match="'silent' is in place but changes no score of a probe"):
        loglikelihoods(scorer, random_items(12, 1), silent)


def idle() -> PublicScorer:
    return PublicScorer(None, 100, 320)


def test_an_item_that_leaves_no_room_for_the_two_further_tokens_is_refused() -> None:
    assert idle().prepare([TokenisedItem(item_id="a", context=(1,) * 98, continuations=((5,),))]).n_items == 1
    with pytest.raises(UserError, match=r"'a' has 99 tokens, the engine was started for 98; raise engine"):
        idle().prepare([TokenisedItem(item_id="a", context=(1,) * 99, continuations=((5,),))])


def test_items_of_another_scorer_are_refused() -> None:
    with pytest.raises(ScoringError, match=r"prepared by another scorer \(VllmScorer\)"):
        idle().score(object.__new__(VllmScorer))


def test_a_model_of_text_and_images_is_refused(tiny_gemma3_vision: Path) -> None:
    with pytest.raises(UserError, match="takes images, and only our workers serve its text part; leave out --engine"):
        start_public(tiny_gemma3_vision, CONFIG, max_rank=8, longest_tokens=100)


def test_its_numbers_have_a_key_of_their_own() -> None:
    assert Public(CONFIG).key_parts()["way"] == "public"
