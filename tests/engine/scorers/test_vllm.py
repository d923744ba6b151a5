"""The embedded vLLM scorer against transformers + peft, on tiny models made on the spot, float32."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import make_full_fine_tune, make_tiny_adapter
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import WEIGHTS_FILE
from transfergrid.engine.adapters.null import make_null_adapter
from transfergrid.engine.interfaces import Adapter, AdapterError, EngineLostError, TokenisedItem
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.engine.scorers.vllm import VllmScorer
from transfergrid.grid import UserError

pytestmark = pytest.mark.engine
TOLERANCE = 1e-3
FAMILIES = ("llama", "qwen2", "gemma3", "gemma3_vision")


def random_items(seed: int, n_items: int = 12) -> list[TokenisedItem]:
    """Return items with a common head, choices that begin alike, and contexts longer than the sliding window."""
    random = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(random.integers(10, 300, random.integers(low, high)).tolist())

    head = tokens(40, 41)
    items = []
    for index in range(n_items):
        common = tokens(2, 6)
        choices = (*(common + tokens(1, 12) for _ in range(3)), tokens(1, 2), tokens(20, 60))
        items.append(TokenisedItem(item_id=f"item-{index}", context=head + tokens(1, 90), continuations=choices))
    return items


def loglikelihoods(scorer: VllmScorer, items: list[TokenisedItem], adapter: Adapter | None = None) -> list[list[float]]:
    results = {
        result.index: list(result.loglikelihoods_nats) for result in scorer.score(scorer.prepare(items), adapter)
    }
    return [results[index] for index in range(len(items))]


@cache
def reference_model(folder: Path, adapter: Path | None = None) -> torch.nn.Module:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model if adapter is None else PeftModel.from_pretrained(model, adapter)


def reference(folder: Path, items: list[TokenisedItem], adapter: Adapter | None = None) -> list[list[float]]:
    model = reference_model(folder, None if adapter is None else adapter.path)

    def one(item: TokenisedItem, choice: tuple[int, ...]) -> float:
        tokens = torch.tensor(item.context + choice)
        with torch.inference_mode():
            logprobs = model(tokens[None]).logits[0].log_softmax(-1)
        rows = torch.arange(len(item.context) - 1, len(tokens) - 1)
        return float(logprobs[rows, tokens[rows + 1]].double().sum())

    return [[one(item, choice) for choice in item.continuations] for item in items]


def largest_difference(left: list[list[float]], right: list[list[float]]) -> float:
    return max(abs(a - b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"tiny_{request.param}")


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    root, base = tmp_path_factory.mktemp("adapters"), read_linear_shapes(model)
    folders = [
        make_tiny_adapter(model, root / f"{seed}", rank=rank, seed=seed) for seed, rank in ((1, 8), (2, 8), (3, 4))
    ]
    folders.append(make_tiny_adapter(model, root / "some-layers", seed=4, target_modules=("k_proj", "down_proj")))
    folders.append(make_tiny_adapter(model, root / "rslora", seed=5, use_rslora=True))
    folders.append(make_null_adapter(model, root / "null"))
    return [check_adapter(folder, base, name=folder.name) for folder in folders]


@pytest.fixture(scope="module")
def scorer(model: Path) -> Iterator[VllmScorer]:
    config = EngineConfig(dtype="float32", token_budget=256, kv_cache_gib=0.05, max_loras=2)
    scorer = start_vllm(model, config, max_rank=8, longest_tokens=256)
    yield scorer
    scorer.close()


def test_base_scores_equal_transformers(scorer: VllmScorer, model: Path) -> None:
    items = random_items(1)
    assert largest_difference(loglikelihoods(scorer, items), reference(model, items)) < TOLERANCE


def test_every_adapter_scores_as_with_peft_whatever_was_scored_before(
    scorer: VllmScorer, model: Path, adapters: list[Adapter]
) -> None:
    items = random_items(2, 4)
    base = loglikelihoods(scorer, items)
    for adapter, following in itertools.pairwise(adapters):
        scorer.prefetch(following)
        scores = loglikelihoods(scorer, items, adapter)
        assert largest_difference(scores, reference(model, items, adapter)) < TOLERANCE
        assert largest_difference(scores, base) > 0.1
    # more adapters than slots: the first was evicted and comes back
    assert (
        largest_difference(loglikelihoods(scorer, items, adapters[0]), reference(model, items, adapters[0])) < TOLERANCE
    )


def test_null_adapter_reproduces_the_base_bit_for_bit(scorer: VllmScorer, adapters: list[Adapter]) -> None:
    items = random_items(3)
    assert loglikelihoods(scorer, items, adapters[-1]) == loglikelihoods(scorer, items)


def test_repeated_passes_are_bit_equal(scorer: VllmScorer, adapters: list[Adapter]) -> None:
    items = random_items(4)
    assert loglikelihoods(scorer, items, adapters[0]) == loglikelihoods(scorer, items, adapters[0])


def test_an_adapter_that_overflows_spoils_no_other_source(
    scorer: VllmScorer, model: Path, adapters: list[Adapter], tmp_path: Path
) -> None:
    items = random_items(6)
    expected = [loglikelihoods(scorer, items, source) for source in (adapters[1], None)]
    weights = load_file(adapters[0].path / WEIGHTS_FILE)
    shutil.copytree(adapters[0].path, tmp_path / "huge")
    save_file({key: 1e30 * value for key, value in weights.items()}, tmp_path / "huge" / WEIGHTS_FILE)
    huge = check_adapter(tmp_path / "huge", read_linear_shapes(model), name="huge")
    assert not any(np.isfinite(sums).any() for sums in loglikelihoods(scorer, items, huge))
    assert [loglikelihoods(scorer, items, source) for source in (adapters[1], None)] == expected


def test_a_full_fine_tune_scores_as_in_transformers_and_the_base_comes_back_bit_for_bit(
    scorer: VllmScorer, model: Path, adapters: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, items = read_linear_shapes(model), random_items(5, 6)
    folder, same = (make_full_fine_tune(model, tmp_path / name, step=step) for name, step in (("a", 0.02), ("b", 0.0)))
    weights = load_file(folder / WEIGHTS_FILE)
    lost = next(key for key in weights if key.endswith("norm.weight"))
    shutil.copytree(folder, tmp_path / "lacks")
    save_file({key: value for key, value in weights.items() if key != lost}, tmp_path / "lacks" / WEIGHTS_FILE)
    full, equal, lacks = (
        check_adapter(each, shapes, name=each.parent.name, takes_full=True)
        for each in (folder, same, tmp_path / "lacks")
    )
    base, adapted = (loglikelihoods(scorer, items, source) for source in (None, adapters[0]))
    found = loglikelihoods(scorer, items, full)
    assert largest_difference(found, reference(tmp_path / "a", items)) < TOLERANCE
    assert largest_difference(found, base) > 100 * TOLERANCE
    assert [loglikelihoods(scorer, items, each) for each in (adapters[0], full, None)] == [adapted, found, base]
    with pytest.raises(AdapterError, match=r"'b@\w+' changes no score of a probe: its weights are the base's"):
        loglikelihoods(scorer, items, equal)
    with pytest.raises(AdapterError, match=rf"lacks 1 of the model's weights, for example '{lost}'"):
        loglikelihoods(scorer, items, lacks)
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "_base_probe", scorer._base_probe + 1)
        with pytest.raises(
            EngineLostError, match=r"the base does not score a probe as before, .* the same command again"
        ):
            loglikelihoods(scorer, items)
    assert loglikelihoods(scorer, items) == base


def test_order_and_batch_of_items_change_nothing(scorer: VllmScorer, adapters: list[Adapter]) -> None:
    items = random_items(5)
    together = loglikelihoods(scorer, items, adapters[1])
    reversed_order = loglikelihoods(scorer, items[::-1], adapters[1])[::-1]
    alone = [loglikelihoods(scorer, [item], adapters[1])[0] for item in items]
    assert largest_difference(together, reversed_order) < TOLERANCE
    assert largest_difference(together, alone) < TOLERANCE
    assert np.argmax(alone[0]) == np.argmax(together[0])


def test_every_token_is_computed_once(scorer: VllmScorer) -> None:
    items = random_items(6)
    prepared = scorer.prepare(items)
    prefixes = {
        (item.context + choice)[: length + 1]
        for item in items
        for choice in item.continuations
        for length in range(len(item.context) + len(choice) - 1)
    }
    assert prepared.n_computed_tokens == len(prefixes)
    assert prepared.n_items == len(items)
    assert prepared.n_repeated_tokens > 2 * prepared.n_computed_tokens


def test_two_adapters_with_one_name_are_kept_apart(scorer: VllmScorer, adapters: list[Adapter]) -> None:
    items = random_items(7, 3)
    first, second = adapters[:2]
    namesake = replace(second, name=first.name)
    loglikelihoods(scorer, items, first)
    assert loglikelihoods(scorer, items, namesake) == loglikelihoods(scorer, items, second)


def test_an_adapter_whose_file_is_not_what_is_applied_is_refused(
    scorer: VllmScorer, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, faint = (
        replace(adapters[0], name="broken", strength=0.0),
        replace(adapters[-1], name="faint", strength=1e-9),
    )
    monkeypatch.setattr(scorer, "_proven", set())
    with pytest.raises(AdapterError, match="'broken' changes the scores of a probe although A or B is zero"):
        loglikelihoods(scorer, random_items(8, 1), broken)
    with pytest.raises(
        AdapterError, match=r"'faint' is in place but changes no score .* \(scale x \|A\| x \|B\| is 1.0e-09"
    ):
        loglikelihoods(scorer, random_items(8, 1), faint)


def test_item_longer_than_the_engine_was_started_for_is_refused(scorer: VllmScorer) -> None:
    item = TokenisedItem(item_id="long", context=tuple(range(10, 300)), continuations=((5,),))
    with pytest.raises(UserError, match="'long' has 290 tokens, the engine was started for 256"):
        scorer.prepare([item])


def test_items_prepared_by_another_scorer_are_refused(scorer: VllmScorer) -> None:
    plan = scorer.prepare(random_items(9, 1)).plan
    with pytest.raises(ScoringError, match=r"prepared by another scorer \(Plan\)"):
        scorer.score(plan)


def test_a_pass_that_another_one_overtook_raises_instead_of_reading_its_blocks(scorer: VllmScorer) -> None:
    prepared = scorer.prepare(random_items(9))
    first = scorer.score(prepared)
    next(first)
    list(scorer.score(prepared))
    with pytest.raises(RuntimeError, match="another pass was started"):
        list(first)


def test_peak_memory_is_that_of_a_process_with_a_model(scorer: VllmScorer) -> None:
    assert scorer.peak_memory_bytes() > 100 * 2**20


def test_mixed_adapters_in_one_batch_of_vllms_scheduler_score_as_each_alone(
    scorer: VllmScorer, model: Path, adapters: list[Adapter]
) -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    items = random_items(10, 6)
    sources = [None, adapters[0], adapters[1]] * 2
    prompts = [{"prompt_token_ids": [*item.context, *item.continuations[0]]} for item in items]
    requests = [None if source is None else LoRARequest(*scorer._reference(source)) for source in sources]
    sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    outputs = scorer._llm.generate(prompts, sampling, lora_request=requests, use_tqdm=False)
    for item, source, output in zip(items, sources, outputs, strict=True):
        choice = item.continuations[0]
        rows = output.prompt_logprobs[len(item.context) :]
        mixed = sum(row[token].logprob for row, token in zip(rows, choice, strict=True))
        single = TokenisedItem(item_id="single", context=item.context, continuations=(choice,))
        assert abs(mixed - loglikelihoods(scorer, [single], source)[0][0]) < TOLERANCE
        assert abs(mixed - reference(model, [single], source)[0][0]) < TOLERANCE


def test_a_closed_scorer_says_so_and_closes_again() -> None:
    closed = object.__new__(VllmScorer)
    closed._llm = None
    closed.close()
    with pytest.raises(RuntimeError, match="the scorer is closed"):
        closed.peak_memory_bytes()
