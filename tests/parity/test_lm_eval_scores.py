"""Log-likelihoods, predictions, acc and acc_norm against lm-evaluation-harness's hf backend in float32."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.parity.harness import CELLS, HarnessItem, load_cell, run_harness
from transfergrid.benchmarks.metrics import pick_choice
from transfergrid.config.settings import BUNDLED_MODEL, EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.interfaces import Adapter, Scorer, TokenisedItem
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.resolve import resolve_model
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.tokenizer import TokenisationSettings, load_tokenizer
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.engine.scorers.reference import ReferenceScorer
from transfergrid.grid import Cell

TOLERANCE_NATS = 1e-3
N_ITEMS = 2
FAMILIES = ("llama", "qwen2", "gemma3")
CHAT = pytest.mark.parametrize("chat_template", [False, True])


@functools.cache
def run_hf(
    model: Path, cache: Path, *, chat_template: bool, adapter: Path | None = None, n_items: int = N_ITEMS
) -> dict[Cell, list[HarnessItem]]:
    """Evaluate a slice of every cell with the peer, once for all scorers."""
    from lm_eval.models.huggingface import HFLM

    peft = {} if adapter is None else {"peft": str(adapter), "tokenizer": padded_tokenizer(model)}
    backend = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=8, **peft)
    return run_harness(backend, CELLS, cache, chat_template=chat_template, n_items=n_items)


def padded_tokenizer(model: Path) -> Any:
    """Return the tokenizer with as many tokens as the model has rows.

    With an adapter the peer cuts the model's vocabulary down to the tokenizer's, which changes every softmax.
    """
    tokenizer = load_tokenizer(model)
    n_missing = read_model_facts(model).vocab_size - len(tokenizer)
    tokenizer.add_tokens([f"<|unused_{index}|>" for index in range(n_missing)])
    return tokenizer


def run_ours(
    scorer: Scorer, model: Path, *, chat_template: bool, adapter: Adapter | None = None, n_items: int = N_ITEMS
) -> dict[Cell, list[Sequence[float]]]:
    """Score the same slice, all cells in one batch."""
    settings = TokenisationSettings(max_length=2048, chat_template=chat_template)
    items = [item for cell in CELLS for item in load_cell(cell, n_items)]
    results = tokenise_items(load_tokenizer(model), items, settings).results
    tokenised = [result for result in results if isinstance(result, TokenisedItem)]
    assert len(tokenised) == len(items)
    sums = {s.index: s.loglikelihoods_nats for s in scorer.score(scorer.prepare(tokenised), adapter)}
    rows = iter(range(len(items)))
    return {cell: [sums[next(rows)] for _ in range(n_items)] for cell in CELLS}


def assert_equal(ours: dict[Cell, list[Sequence[float]]], theirs: dict[Cell, list[HarnessItem]]) -> None:
    """Every log-likelihood within the tolerance; every prediction's metrics equal."""
    differences = [
        abs(a - b)
        for cell in CELLS
        for sums, item in zip(ours[cell], theirs[cell], strict=True)
        for a, b in zip(sums, item.loglikelihoods, strict=True)
    ]
    print(f"largest difference {max(differences):.2e} nats over {len(differences)} requests")
    assert max(differences) <= TOLERANCE_NATS
    for cell in CELLS:
        for item, sums, peer in zip(load_cell(cell, len(ours[cell])), ours[cell], theirs[cell], strict=True):
            metrics = {
                "acc": float(pick_choice(sums) == item.gold),
                "acc_norm": float(pick_choice(sums, item.choice_chars) == item.gold),
            }
            assert item.item_id == peer.item_id
            assert peer.metrics == {name: metrics[name] for name in peer.metrics}
            expected = {"acc", "acc_norm"} if cell.task in ("arc_challenge", "hellaswag") else {"acc"}
            assert peer.metrics.keys() == expected


def load_adapter(model: Path, folder: Path) -> Adapter:
    return check_adapter(folder, read_linear_shapes(model), name=folder.name)


def start_engine(model: Path) -> Any:
    from transfergrid.engine.scorers.launch import start_vllm

    return start_vllm(model, EngineConfig(dtype="float32", kv_cache_gib=1.0, token_budget=1024), max_rank=8)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(f"tiny_{request.param}"))


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Any]:
    scorer = start_engine(model)
    yield scorer
    scorer.close()


@CHAT
def test_the_reference_equals_the_harness(model: Path, chat_template: bool, harness_cache: Path) -> None:
    theirs = run_hf(model, harness_cache, chat_template=chat_template)
    assert_equal(run_ours(ReferenceScorer(model), model, chat_template=chat_template), theirs)


def test_the_reference_equals_the_harness_under_every_adapter(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], harness_cache: Path
) -> None:
    scorer = ReferenceScorer(tiny_llama)
    for folder in tiny_adapters:
        theirs = run_hf(tiny_llama, harness_cache, chat_template=True, adapter=folder)
        adapter = load_adapter(tiny_llama, folder)
        assert_equal(run_ours(scorer, tiny_llama, chat_template=True, adapter=adapter), theirs)


@pytest.mark.engine
@CHAT
def test_the_engine_equals_the_harness(model: Path, engine: Any, chat_template: bool, harness_cache: Path) -> None:
    theirs = run_hf(model, harness_cache, chat_template=chat_template)
    assert_equal(run_ours(engine, model, chat_template=chat_template), theirs)


@pytest.mark.engine
def test_the_engine_equals_the_harness_under_every_adapter(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], harness_cache: Path
) -> None:
    scorer = start_engine(tiny_llama)
    try:
        for folder in tiny_adapters:
            theirs = run_hf(tiny_llama, harness_cache, chat_template=True, adapter=folder)
            adapter = load_adapter(tiny_llama, folder)
            assert_equal(run_ours(scorer, tiny_llama, chat_template=True, adapter=adapter), theirs)
    finally:
        scorer.close()


@pytest.fixture(scope="module")
def bundled_engine() -> Iterator[Any]:
    scorer = start_engine(resolve_model(BUNDLED_MODEL))
    yield scorer
    scorer.close()


@pytest.mark.engine
@CHAT
def test_the_engine_equals_the_harness_on_the_bundled_model(
    bundled_engine: Any, chat_template: bool, harness_cache: Path
) -> None:
    folder = resolve_model(BUNDLED_MODEL)
    theirs = run_hf(folder, harness_cache, chat_template=chat_template, n_items=1)
    assert_equal(run_ours(bundled_engine, folder, chat_template=chat_template, n_items=1), theirs)
