from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import Adapter, AdapterError, Scorer, TokenisedItem
from transfergrid.engine.planning.planner import PlanLimits, plan_items
from transfergrid.engine.scorers.reference import ReferenceScorer
from transfergrid.store.files import hash_files

ITEMS = [
    TokenisedItem(item_id="a", context=(3, 40, 50, 60), continuations=((70, 80, 90), (71,), (70, 81))),
    TokenisedItem(item_id="b", context=(3, 41), continuations=((90,), (91, 92))),
]


def as_adapter(folder: Path, name: str) -> Adapter:
    return Adapter(name=name, path=folder, content_hash=hash_files(folder.glob("adapter_*")), rank=8)


def sums(scorer: Scorer, adapter: Adapter | None = None) -> np.ndarray:
    prepared = scorer.prepare(ITEMS)
    return np.concatenate([result.loglikelihoods_nats for result in scorer.score(prepared, adapter)])


def slow_sums(model: Any) -> np.ndarray:
    """Token by token, in float64: the definition."""
    import torch

    values = []
    for item in ITEMS:
        for continuation in item.continuations:
            total = 0.0
            for at, token in enumerate(continuation):
                tokens = torch.tensor([[*item.context, *continuation[:at]]])
                with torch.inference_mode():
                    row = model(tokens).logits[0, -1].double()
                total += float(row[token] - torch.logsumexp(row, 0))
            values.append(total)
    return np.array(values)


@pytest.mark.parametrize("model_name", ["tiny_llama", "tiny_qwen2", "tiny_gemma3"])
def test_sums_are_those_of_one_token_at_a_time(model_name: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(model_name)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    np.testing.assert_allclose(sums(ReferenceScorer(folder)), slow_sums(model), atol=1e-4)


def test_adapters_are_swapped_in_and_out(tiny_llama: Path, tiny_adapters: tuple[Path, ...]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    scorer = ReferenceScorer(tiny_llama)
    base = sums(scorer)
    adapters = [as_adapter(folder, f"adapter.{at}") for at, folder in enumerate(tiny_adapters)]
    scorer.prefetch(adapters[1])
    np.testing.assert_array_equal(sums(scorer), base)
    for adapter in adapters:
        model = AutoModelForCausalLM.from_pretrained(tiny_llama)
        merged = PeftModel.from_pretrained(model, str(adapter.path)).merge_and_unload().eval()
        expected = slow_sums(merged)
        assert np.abs(expected - base).max() > 0.1
        np.testing.assert_allclose(sums(scorer, adapter), expected, atol=1e-3)
        assert list(scorer._model.peft_config) == [adapter.content_hash]  # those that were scored are gone
    np.testing.assert_array_equal(sums(scorer), base)


def test_a_null_adapter_gives_the_base(tiny_llama: Path, null_adapter: Path) -> None:
    scorer = ReferenceScorer(tiny_llama)
    base = sums(scorer)
    np.testing.assert_array_equal(sums(scorer, as_adapter(null_adapter, "null")), base)


def test_an_adapter_that_peft_cannot_load_is_refused_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    scorer = ReferenceScorer(tiny_llama)
    with pytest.raises(AdapterError, match=r"peft cannot load adapter 'broken' for this model"):
        scorer.prefetch(as_adapter(tmp_path, "broken"))


def test_an_adapter_that_changed_leaves_nothing_behind(tiny_llama: Path, tiny_adapters: tuple[Path, ...]) -> None:
    scorer = ReferenceScorer(tiny_llama)
    base = sums(scorer)
    first, second = (as_adapter(folder, "a") for folder in tiny_adapters[:2])
    for changed in (replace(first, content_hash="0" * 64), replace(second, content_hash="1" * 64)):
        with pytest.raises(AdapterError, match="changed"):
            sums(scorer, changed)
        np.testing.assert_array_equal(sums(scorer), base)
        np.testing.assert_array_equal(sums(scorer, second), sums(ReferenceScorer(tiny_llama), second))


def test_items_of_another_scorer_are_refused(tiny_llama: Path) -> None:
    plan = plan_items(ITEMS, PlanLimits(max_step_tokens=8, max_step_sequences=4, n_blocks=9, block_size=4))
    with pytest.raises(ScoringError, match=r"items prepared by another scorer \(Plan\)"):
        next(ReferenceScorer(tiny_llama).score(plan))


def test_a_closed_scorer_holds_no_model(tiny_llama: Path) -> None:
    scorer = ReferenceScorer(tiny_llama)
    scorer.close()
    assert scorer._model is None


def test_an_adapter_that_changed_since_it_was_checked_is_refused(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...]
) -> None:
    adapter = Adapter(name="changed", path=tiny_adapters[0], content_hash="0" * 64, rank=8)
    with pytest.raises(AdapterError, match="adapter 'changed' changed in"):
        ReferenceScorer(tiny_llama).prefetch(adapter)
