"""The client of ``grid serve`` against a server without a model: passes, retries, adapters, messages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine.fake_server import LIMITS, FakeServer, made_up_logprobs, serve_fake
from tests.engine.sweeps import vary_adapter
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.interfaces import Adapter, AdapterError, EngineLostError, TokenisedItem
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.planning.planner import PlanLimits
from transfergrid.engine.scorers.passes import PlannedScorer
from transfergrid.engine.server.client import ServerClient
from transfergrid.engine.server.retries import RetryPolicy, TransientError
from transfergrid.engine.server.scorer import ServerScorer
from transfergrid.grid import UserError


def items_of(n_items: int) -> list[TokenisedItem]:
    random = np.random.default_rng(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(random.integers(0, 320, count).tolist())

    return [
        TokenisedItem(item_id=f"item-{index}", context=some(30), continuations=tuple(some(8) for _ in range(3)))
        for index in range(n_items)
    ]


def expected_scores(items: list[TokenisedItem], folder: Path | None = None) -> dict[int, tuple[float, ...]]:
    """What a pass over the same plan gives, without a server."""
    prepared = PlannedScorer(PlanLimits(**LIMITS), 128).prepare(items)
    logprobs = np.full(prepared.plan.n_slots, np.nan, dtype=np.float32)
    results = {}
    for index, (step, packed) in enumerate(zip(prepared.plan.steps, prepared.packed, strict=True)):
        values = made_up_logprobs(packed, None if folder is None else str(folder))
        logprobs[step.score_slots] = np.frombuffer(values, dtype="<f4")
        results |= {r.index: r.loglikelihoods_nats for r in prepared.plan.loglikelihoods(logprobs, index)}
    return results


def scores(scorer: ServerScorer, items: list[TokenisedItem], adapter: Adapter | None = None) -> dict[int, object]:
    results = list(scorer.score(scorer.prepare(items), adapter))
    assert len({result.index for result in results}) == len(results), "an item was given twice"
    return {result.index: result.loglikelihoods_nats for result in results}


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def scorer(server: FakeServer, pauses: list[float]) -> Iterator[ServerScorer]:
    client = ServerClient(server.url, None, retries=RetryPolicy(attempts=4, sleep=pauses.append))
    scorer = ServerScorer(client, client.facts())
    yield scorer
    scorer.close()


@pytest.fixture
def adapters(tiny_llama: Path, tiny_adapters: tuple[Path, ...], adapter_root: Path) -> list[Adapter]:
    base = read_linear_shapes(tiny_llama)
    for seed, name in enumerate(("a", "bb", "ccc")):
        vary_adapter(tiny_adapters[0], adapter_root / name, seed=seed)
    return [check_adapter(adapter_root / name, base, name=name) for name in ("a", "bb", "ccc")]


def test_a_pass_gives_what_the_engine_gives_and_runs_while_the_scheduler_rests(
    server: FakeServer, scorer: ServerScorer
) -> None:
    items = items_of(5)
    assert scores(scorer, items) == expected_scores(items)
    prepared = scorer.prepare(items)
    assert server.engine.calls == ["pause wait", *["step"] * len(prepared.packed), "clear", "resume"]
    assert len(prepared.packed) > 3
    assert len(scorer.prepare(items, halve_steps=True).packed) > len(prepared.packed)


@pytest.mark.parametrize("faults", [[503], [502, 429], ["drop"], ["cut"], ["cut", 503, "cut"]], ids=str)
def test_a_pass_that_breaks_off_is_sent_again_and_no_item_comes_twice(
    faults: list[int | str], server: FakeServer, scorer: ServerScorer, pauses: list[float]
) -> None:
    items = items_of(5)
    n_faults = len(faults)
    server.faults[:] = faults
    assert scores(scorer, items) == expected_scores(items)
    assert len(pauses) == n_faults


def test_a_server_that_stays_broken_is_given_up_with_a_sentence(
    server: FakeServer, scorer: ServerScorer, pauses: list[float]
) -> None:
    server.faults[:] = [503] * 100
    with pytest.raises(
        EngineLostError, match=r"no answer from the server at http.* in 4 attempts \(status 503: busy\)"
    ):
        scores(scorer, items_of(2))
    assert len(pauses) == 3


def test_pauses_double_up_to_the_longest_and_vary() -> None:
    pauses: list[float] = []
    policy = RetryPolicy(attempts=6, first_pause_s=1.0, longest_pause_s=5.0, sleep=pauses.append)

    def fail() -> None:
        raise TransientError("no")

    with pytest.raises(TransientError, match="no"):
        policy.run(fail)
    assert len(pauses) == 5
    for pause, middle in zip(pauses, (1, 2, 4, 5, 5), strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle


def test_an_engine_that_fails_is_no_reason_to_try_again(server: FakeServer, scorer: ServerScorer) -> None:
    server.engine.failure = ValueError("a bad step")
    with pytest.raises(RuntimeError, match="the server's engine failed: ValueError: a bad step"):
        scores(scorer, items_of(2))
    assert server.engine.calls == ["pause wait", "step", "clear", "resume"]


def test_an_engine_that_died_is_a_lost_server(server: FakeServer, scorer: ServerScorer) -> None:
    server.engine.failure, server.engine.errored = RuntimeError("dead"), True
    with pytest.raises(EngineLostError, match=r"RuntimeError: dead.*finished cells are kept"):
        scores(scorer, items_of(2))


def test_adapters_are_loaded_ahead_proven_and_unloaded(
    server: FakeServer, scorer: ServerScorer, adapters: list[Adapter]
) -> None:
    items = items_of(3)
    first, second, _ = adapters
    scorer.prefetch(first)
    assert scores(scorer, items, first) == expected_scores(items, first.path)
    scorer.prefetch(second)
    assert scores(scorer, items, second) == expected_scores(items, second.path)
    scorer.close()
    names = [f"{name}@{adapter.content_hash[:16]}" for name, adapter in (("a", first), ("bb", second))]
    assert server.log == [f"+{names[0]}", f"+{names[1]}", f"-{names[0]}", f"-{names[1]}"]
    scorer.close()


def test_an_adapter_that_somebody_else_unloaded_is_loaded_again(
    server: FakeServer, scorer: ServerScorer, adapters: list[Adapter]
) -> None:
    items = items_of(3)
    scores(scorer, items, adapters[0])
    server.loaded.clear()
    assert scores(scorer, items, adapters[0]) == expected_scores(items, adapters[0].path)


def test_an_adapter_outside_the_servers_folder_is_refused(
    server: FakeServer, scorer: ServerScorer, adapters: list[Adapter], tmp_path: Path
) -> None:
    outside = tmp_path / "elsewhere"
    shutil.copytree(adapters[0].path, outside)
    with pytest.raises(AdapterError, match=r"does not load adapter 'a@.*elsewhere' is not under .*--adapter-root"):
        scores(scorer, items_of(1), replace(adapters[0], path=outside))
    assert server.loaded == {}


def test_an_adapter_with_other_weights_on_the_server_is_refused(scorer: ServerScorer, adapters: list[Adapter]) -> None:
    changed = replace(adapters[0], content_hash="0" * 64)
    with pytest.raises(AdapterError, match="is another one at the server's"):
        scores(scorer, items_of(1), changed)


def test_an_adapter_that_changes_nothing_is_refused(scorer: ServerScorer, adapters: list[Adapter]) -> None:
    with pytest.raises(AdapterError, match="changes the scores of a probe although A or B is zero"):
        scores(scorer, items_of(1), replace(adapters[0], strength=0.0))


def test_items_of_another_scorer_and_items_too_long_are_refused(scorer: ServerScorer) -> None:
    with pytest.raises(ScoringError, match=r"prepared by another scorer \(Plan\)"):
        scorer.score(scorer.prepare(items_of(1)).plan)
    long = TokenisedItem(item_id="long", context=(1,) * 128, continuations=((2, 3),))
    with pytest.raises(UserError, match="'long' has 129 tokens, the engine was started for 128"):
        scorer.prepare([long])


def test_a_server_that_was_started_again_goes_on_where_it_was(
    adapter_root: Path, adapters: list[Adapter], pauses: list[float]
) -> None:
    items = items_of(3)
    with serve_fake(adapter_root) as server:
        client = ServerClient(server.url, None, retries=RetryPolicy(attempts=4, sleep=pauses.append))
        scorer = ServerScorer(client, client.facts())
        scores(scorer, items, adapters[0])
        port = int(server.url.rpartition(":")[2])
    with serve_fake(adapter_root, port=port) as again:
        assert scores(scorer, items, adapters[0]) == expected_scores(items, adapters[0].path)
        assert again.log == [f"+a@{adapters[0].content_hash[:16]}"]
    with (
        serve_fake(adapter_root, port=port, revision="r2"),
        pytest.raises(EngineLostError, match="was started again with other settings; give the same command again"),
    ):
        scores(scorer, items)
    scorer.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://[::1", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is not a URL"):
        ServerClient(url, None)


def test_a_url_where_nobody_listens_or_another_server_does(server: FakeServer) -> None:
    policy = RetryPolicy(attempts=2, sleep=lambda pause: None)
    nobody = ServerClient("http://127.0.0.1:9", None, retries=policy)
    with pytest.raises(EngineLostError, match=r"no answer from the server at http://127.0.0.1:9 in 2 attempts"):
        nobody.facts()
    other = ServerClient(f"{server.url}/v1/models", None, retries=policy)
    with pytest.raises(EngineLostError, match=r"is not this version's 'grid serve' \(GET /grid/v1/server gives status"):
        other.facts()


@pytest.mark.parametrize(("given", "message"), [(None, "needs an API key"), ("wrong", "refuses this API key")])
def test_a_key_that_is_missing_or_wrong_is_named(given: str | None, message: str, adapter_root: Path) -> None:
    with serve_fake(adapter_root, api_key="right") as server:
        assert ServerClient(server.url, "right").facts().model == "tiny"
        with pytest.raises(EngineLostError, match=f"{message}; set TRANSFERGRID_API_KEY"):
            ServerClient(server.url, given).facts()


def test_a_server_of_another_version_is_refused(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfergrid.engine.server.guard.vllm_version", lambda: "0.31.0")
    with pytest.raises(
        EngineLostError, match=r"runs vLLM '0\.31\.0' and interface 2; expected one of \['0\.26\.0', '0\.32\.0'\] and 2"
    ):
        ServerClient(server.url, None).facts()
