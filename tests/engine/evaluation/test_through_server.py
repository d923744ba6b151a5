"""``grid eval --server`` against a server without a model: keys, refusals, a whole sweep, a server that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.engine.fake_server import LIMITS, FakeServer, serve_fake
from tests.engine.sweeps import add_adapters, small_config, stored_rows, write_config
from transfergrid.cli import main
from transfergrid.config.selection import Narrowing
from transfergrid.config.settings import EngineConfig, ModelConfig
from transfergrid.engine.evaluation.through_server import connect
from transfergrid.engine.interfaces import EngineLostError
from transfergrid.engine.models.resolve import model_revision
from transfergrid.engine.scorers.multi_lora import MultiLora
from transfergrid.engine.server.maker import Server
from transfergrid.engine.server.retries import RetryPolicy
from transfergrid.engine.work.base_model import resolve_base
from transfergrid.engine.work.request import EngineOptions, EvalRequest
from transfergrid.grid import UserError
from transfergrid.store import adaptive
from transfergrid.store.folder import RunFolder


def quick_pause(self: RetryPolicy, n_failures: int, error: Exception) -> None:
    if n_failures >= self.attempts:
        raise error


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fake engine take the bundled items, and the client not wait long."""
    monkeypatch.setitem(LIMITS, "n_blocks", 1000)
    monkeypatch.setitem(LIMITS, "max_step_tokens", 2048)
    monkeypatch.setattr(RetryPolicy, "pause", quick_pause)


@pytest.fixture
def run(tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    config = small_config(tiny_llama)
    folder = RunFolder(tmp_path / "run")
    add_adapters(config, folder, tiny_adapters[0])
    write_config(tiny_llama, tmp_path / "grid.yaml", engine={"dtype": "float32", "max_model_len": 2000})
    return folder


@pytest.fixture
def setup(tiny_llama: Path) -> dict[str, Any]:
    return {"revision": model_revision(tiny_llama), "vllm_args": {"seed": 3}}


@pytest.fixture
def server(run: RunFolder, setup: dict[str, Any]) -> Iterator[FakeServer]:
    with serve_fake(run.adapters, **setup) as server:
        server.engine.vllm_config.model_config.max_model_len = 2000
        yield server


def through(server: FakeServer) -> EngineOptions:
    return EngineOptions("server", server.url)


def grid_eval(run: RunFolder, url: str, *options: str) -> Result:
    config = run.root.parent / "grid.yaml"
    command = ["eval", "--config", str(config), "--run", str(run.root), "--server", url, *options]
    return CliRunner().invoke(main, command)


def test_the_key_is_that_of_an_engine_here_with_the_servers_settings(server: FakeServer, tiny_llama: Path) -> None:
    config = small_config(tiny_llama)
    found = connect(config, EvalRequest(), through(server))
    assert found.request.narrowing.models == ("tiny",)
    engine = EngineConfig(dtype="float32", vllm_args={"seed": 3})
    here = resolve_base(config.model_copy(update={"engine": engine}), config.models[0], MultiLora(engine))
    there = resolve_base(found.config, config.models[0], found.maker)
    assert there.key(None) == here.key(None)
    assert isinstance(found.maker, Server)
    other = replace(found.maker, facts=replace(found.maker.facts, vllm_version="0.33.0"))
    assert resolve_base(found.config, config.models[0], other).key(None) != here.key(None)


@pytest.mark.parametrize(
    ("changes", "request_changes", "message"),
    [
        ({"engine": EngineConfig(dtype="bfloat16")}, {}, "engine.dtype is 'bfloat16' here and 'float32' at http"),
        ({"engine": EngineConfig(quantization="fp8")}, {}, "engine.quantization is 'fp8' here and None at http"),
        (
            {"models": (ModelConfig(path="org/b"),)},
            {},
            r"holds 'tiny', asked for are \['b'\]; start 'grid serve --model'",
        ),
        ({}, {"narrowing": Narrowing(models=("other",))}, r"holds 'tiny', asked for are \['other'\]"),
        ({}, {"noise_floor": True}, "--noise-floor needs an adapter of its own"),
    ],
)
def test_a_server_that_does_not_fit_is_refused(
    changes: dict[str, Any], request_changes: dict[str, Any], message: str, server: FakeServer, tiny_llama: Path
) -> None:
    with pytest.raises(UserError, match=message):
        connect(small_config(tiny_llama, **changes), EvalRequest(**request_changes), through(server))


def test_the_servers_model_is_taken_out_of_several(server: FakeServer, tiny_llama: Path) -> None:
    both = (ModelConfig(path=str(tiny_llama), name="tiny"), ModelConfig(path="org/b"))
    for asked in ((), ("tiny", "tiny")):
        request = EvalRequest(narrowing=Narrowing(models=asked))
        found = connect(small_config(tiny_llama, models=both), request, through(server))
        assert found.request.narrowing.models == ("tiny",)


def test_other_weights_of_the_same_name_are_refused(run: RunFolder, tiny_llama: Path) -> None:
    with (
        serve_fake(run.adapters, revision="e" * 64) as other,
        pytest.raises(UserError, match=r"model 'tiny' has revision '.{12}' here and 'eeeeeeeeeeee' at http"),
    ):
        connect(small_config(tiny_llama), EvalRequest(), through(other))


def test_items_and_adapters_too_large_for_the_server_are_refused(server: FakeServer, tiny_llama: Path) -> None:
    maker = connect(small_config(tiny_llama), EvalRequest(), through(server)).maker
    with pytest.raises(UserError, match=r"the items need 2001 tokens, .* takes 2000; start 'grid serve' with"):
        maker.open(tiny_llama, longest_tokens=2001, max_rank=8)
    with pytest.raises(UserError, match=r"the adapters have rank 16, .* takes 8; start 'grid serve' again"):
        maker.open(tiny_llama, longest_tokens=100, max_rank=16)
    maker.open(tiny_llama, longest_tokens=2000, max_rank=8).close()
    assert isinstance(maker, Server)
    other = replace(maker, facts=replace(maker.facts, model="other"))
    with pytest.raises(EngineLostError, match="was started again with other settings; try again"):
        other.open(tiny_llama, longest_tokens=100, max_rank=8)


def test_a_sweep_through_a_server_fills_the_store(run: RunFolder, server: FakeServer) -> None:
    result = grid_eval(run, server.url)
    assert result.exit_code == 0, result.output
    assert "20 of 20 cells are in the store" in result.output
    assert stored_rows(run)["loglikelihoods_nats"].null_count() == 0
    assert server.loaded == {}
    server.engine.calls.clear()
    assert grid_eval(run, server.url).exit_code == 0
    assert server.engine.calls == []


def test_pairs_stop_early_through_a_server_and_a_fixed_sweep_completes_them(
    run: RunFolder, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_LOOK", "LOOK_EVERY"):
        monkeypatch.setattr(adaptive, name, 1)
    stopped = grid_eval(run, server.url, "--adaptive")
    assert stopped.exit_code == 0, stopped.output
    assert "of 16 pairs of adapter and target stopped early" in " ".join(stopped.output.split())
    assert 20 < stored_rows(run).height < 60
    assert grid_eval(run, server.url).exit_code == 0
    whole = RunFolder(tmp_path / "whole")
    whole.root.mkdir()
    whole.adapters.symlink_to(run.adapters)
    assert grid_eval(whole, server.url).exit_code == 0
    assert stored_rows(run).equals(stored_rows(whole))


def test_a_server_that_is_lost_ends_the_sweep_and_the_same_command_goes_on(
    run: RunFolder, server: FakeServer, tmp_path: Path
) -> None:
    whole = grid_eval(run, server.url)
    assert whole.exit_code == 0
    expected = stored_rows(run)
    again = RunFolder(tmp_path / "again")
    again.root.mkdir()
    again.adapters.symlink_to(run.adapters)
    server.engine.dies_after = 6
    result = grid_eval(again, server.url)
    assert result.exit_code == 1
    assert "grid: no answer from the server at" in result.stderr
    assert "finished cells are kept" in result.stderr
    kept = stored_rows(again).height
    assert 0 < kept < expected.height
    server.engine.dies_after = None
    assert grid_eval(again, server.url).exit_code == 0
    assert stored_rows(again).equals(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sequential",), "grid: --server serves adapters as they are; leave out --sequential"),
        (("--model", "tiny", "--api-key", "wrong"), "refuses this API key; set TRANSFERGRID_API_KEY"),
        ((), "needs an API key"),
    ],
)
def test_refusals_are_one_sentence_and_exit_status_1(
    options: tuple[str, ...], message: str, run: RunFolder, setup: dict[str, Any]
) -> None:
    with serve_fake(run.adapters, api_key="right", **setup) as closed:
        result = grid_eval(run, closed.url, *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_nobody_listening_is_one_sentence(run: RunFolder) -> None:
    result = grid_eval(run, "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stderr.startswith("grid: no answer from the server at http://127.0.0.1:9 in 3 attempts")
