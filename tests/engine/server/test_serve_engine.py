"""``grid serve`` for real: the scores are the embedded engine's, before and after the server was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil
import pytest

from tests.engine.scorers.test_vllm import largest_difference, loglikelihoods, random_items
from tests.engine.server.test_launch import free_port
from tests.engine.sweeps import SEED, small_config, stored_rows, vary_adapter
from tests.models import make_tiny_adapter
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.null import make_null_adapter
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import Adapter
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.engine.scorers.multi_lora import MultiLora
from transfergrid.engine.server.client import ServerClient
from transfergrid.engine.server.scorer import ServerScorer
from transfergrid.engine.work.request import EvalRequest
from transfergrid.store.folder import RunFolder

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]
KEY = "a-long-word"
TOLERANCE = 1e-4
ENGINE: dict[str, Any] = {"dtype": "float32", "token_budget": 256, "kv_cache_gib": 0.05, "max_model_len": 1024}
LANGUAGES = ("de", "en", "hi")


class ServeProcess:
    """A ``grid serve`` of its own that can be started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url, self.port = folder, f"http://127.0.0.1:{port}", port
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, path: Path) -> None:
        """Start the process and do not wait for it; what it says goes to a file."""
        with path.open("ab") as log:
            self.process = subprocess.Popen(
                command("serve", self.folder, "--port", str(self.port)),
                env=environment(),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        self.launch(self.folder / "serve.log")
        assert self.process is not None
        for _ in range(1200):
            assert self.process.poll() is None, (self.folder / "serve.log").read_text()[-3000:]
            if self.answers():
                return
            time.sleep(0.1)
        raise AssertionError("the server did not answer in two minutes")

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False

    def family(self) -> list[psutil.Process]:
        """The server and all processes that it started."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def end(self, number: int) -> tuple[int, list[psutil.Process]]:
        """Send a signal; return the exit status and what of the server still runs after a while."""
        assert self.process is not None
        family = self.family()
        os.kill(self.process.pid, number)
        status = self.process.wait(60)
        _, alive = psutil.wait_procs(family, timeout=30)
        return status, [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def command(name: str, folder: Path, *options: str) -> list[str]:
    config = ["--config", str(folder / "grid.yaml"), "--run", str(folder / "run")]
    return [sys.executable, "-m", "transfergrid.cli", name, *config, *options]


def environment() -> dict[str, str]:
    return {**os.environ, "TRANSFERGRID_API_KEY": KEY, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with grid.yaml and a run with an adapter for every source cell, and more beside them."""
    folder = tmp_path_factory.mktemp("served")
    config = small_config(tiny_llama, languages=LANGUAGES)
    text = {
        "models": [{"path": str(tiny_llama), "name": "tiny"}],
        "tasks": list(config.tasks),
        "languages": list(LANGUAGES),
        "seeds": [SEED],
        "data": {"max_test_items": 3, "max_train_items": 4},
        "engine": {**ENGINE, "max_loras": 2},
        "lora": {"r": 8},
    }
    (folder / "grid.yaml").write_text(json.dumps(text), encoding="utf-8")
    run = RunFolder(folder / "run")
    for number, cell in enumerate(config.grid.cells):
        vary_adapter(tiny_adapters[0], run.adapter("tiny", SEED, cell), seed=number)
    return folder


@pytest.fixture(scope="module")
def adapters(folder: Path, tiny_llama: Path) -> list[Adapter]:
    more, base = RunFolder(folder / "run").adapters / "more", read_linear_shapes(tiny_llama)
    made = [
        make_tiny_adapter(tiny_llama, more / "rank-8", seed=1),
        make_tiny_adapter(tiny_llama, more / "rank-4", rank=4, seed=3),
        make_tiny_adapter(tiny_llama, more / "some-layers", seed=4, target_modules=("k_proj", "down_proj")),
        make_tiny_adapter(tiny_llama, more / "rslora", seed=5, use_rslora=True),
        make_null_adapter(tiny_llama, more / "null"),
    ]
    return [check_adapter(path, base, name=path.name) for path in made]


@pytest.fixture(scope="module")
def served(folder: Path, adapters: list[Adapter]) -> Iterator[ServeProcess]:
    served = ServeProcess(folder, free_port())
    try:
        served.start()
        yield served
    finally:
        if served.process is not None and served.process.poll() is None:
            os.killpg(served.process.pid, signal.SIGKILL)
            served.process.wait(60)


@pytest.fixture(scope="module")
def embedded(tiny_llama: Path, adapters: list[Adapter]) -> dict[str | None, list[list[float]]]:
    """Scores of the same items by the engine in this process, base and every adapter."""
    scorer = start_vllm(tiny_llama, EngineConfig(**ENGINE), max_rank=8)
    try:
        return {
            None if adapter is None else adapter.name: loglikelihoods(scorer, random_items(2, 6), adapter)
            for adapter in (None, *adapters)
        }
    finally:
        scorer.close()


def scores(scorer: ServerScorer, adapter: Adapter | None = None) -> list[list[float]]:
    return loglikelihoods(scorer, random_items(2, 6), adapter)  # type: ignore[arg-type]


@pytest.fixture
def scorer(served: ServeProcess) -> Iterator[ServerScorer]:
    client = ServerClient(served.url, KEY)
    scorer = ServerScorer(client, client.facts())
    yield scorer
    scorer.close()


def assert_equal_scores(found: list[list[float]], expected: list[list[float]]) -> None:
    assert largest_difference(found, expected) < TOLERANCE
    assert [int(np.argmax(one)) for one in found] == [int(np.argmax(one)) for one in expected]


def test_base_and_adapters_score_as_in_the_embedded_engine(
    scorer: ServerScorer, adapters: list[Adapter], embedded: dict[str | None, list[list[float]]]
) -> None:
    assert_equal_scores(scores(scorer), embedded[None])
    for adapter in (*adapters, adapters[0]):  # more than slots: the first was evicted and comes back
        assert_equal_scores(scores(scorer, adapter), embedded[adapter.name])
    assert scores(scorer, adapters[-1]) == scores(scorer)  # the null adapter, bit for bit
    assert largest_difference(embedded[adapters[0].name], embedded[None]) > 0.1


def test_passes_and_other_clients_do_not_disturb_each_other(
    served: ServeProcess, scorer: ServerScorer, adapters: list[Adapter], embedded: dict[str | None, list[list[float]]]
) -> None:
    request = {"model": "tiny", "prompt": list(range(10, 90)), "max_tokens": 60, "temperature": 0, "ignore_eos": True}

    def generate(_: int = 0) -> str:
        answer = httpx.post(
            f"{served.url}/v1/completions",
            json={**request, "return_token_ids": True},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["token_ids"])

    alone = generate()
    with ThreadPoolExecutor(3) as pool:
        texts = [pool.submit(generate) for _ in range(9)]
        for adapter in (None, adapters[0], None, adapters[1]):
            assert_equal_scores(scores(scorer, adapter), embedded[None if adapter is None else adapter.name])
        assert {text.result() for text in texts} == {alone}


def test_the_server_checks_the_key_and_where_adapters_lie(
    served: ServeProcess, tiny_adapters: tuple[Path, ...]
) -> None:
    def load(path: Path | str, route: str = "/v1/load_lora_adapter", key: str = KEY) -> int:
        body = {"lora_name": str(path), "lora_path": str(path), "name": str(path), "src": str(path)}
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(served.url + route, json=body, headers=headers, follow_redirects=True).status_code

    root = RunFolder(served.folder / "run").adapters
    (root / "link").symlink_to(tiny_adapters[0])
    assert load(tiny_adapters[0], key="wrong") == 401
    assert httpx.get(f"{served.url}/version").status_code == 401
    for path in (tiny_adapters[0], "link", "../../grid.yaml", f"{root}/../../../{tiny_adapters[0].name}"):
        assert load(path) == 403
    assert load(tiny_adapters[0], "/adapters") == 404
    assert load(tiny_adapters[0], "/v1/load_lora_adapter/") == 403
    assert load("more/rank-8") == 200
    (root / "link").unlink()


def embedded_rows(folder: Path, tiny_llama: Path) -> pl.DataFrame:
    """Rows of the same grid by the engine in this process."""
    config = small_config(tiny_llama, languages=LANGUAGES, engine=EngineConfig(**ENGINE, max_loras=2))
    here = RunFolder(folder / "here")
    here.root.mkdir()
    here.adapters.symlink_to(RunFolder(folder / "run").adapters)
    report = evaluate(config, here, EvalRequest(), maker=MultiLora(config.engine))
    assert report.is_complete
    return stored_rows(here)


def test_a_server_killed_in_the_middle_and_started_again_gives_the_embedded_table(
    served: ServeProcess, folder: Path, tiny_llama: Path
) -> None:
    run, evaluation = RunFolder(folder / "run"), command("eval", folder, "--server", served.url)
    first = subprocess.Popen(evaluation, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if list(run.scores.glob("*.parquet")) or first.poll() is not None:
            break
        time.sleep(0.05)
    assert first.poll() is None, first.communicate()
    assert served.end(signal.SIGKILL)[1] == []
    expected = embedded_rows(folder, tiny_llama)  # while the command asks the dead server again and again
    _, error = first.communicate(timeout=120)
    assert first.returncode == 1
    assert error.splitlines()[-1].startswith(f"grid: no answer from the server at {served.url} in 8 attempts")
    assert "Traceback" not in error
    n_kept = stored_rows(run).height
    assert 0 < n_kept < expected.height
    served.start()
    again = subprocess.run(evaluation, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    found = stored_rows(run)
    sums = "loglikelihoods_nats"
    assert found.drop(sums).equals(expected.drop(sums))  # run keys and predictions too
    assert largest_difference(found[sums].to_list(), expected[sums].to_list()) < TOLERANCE


def test_an_interrupt_leaves_no_process_behind(served: ServeProcess) -> None:
    assert len(served.family()) > 1
    status, alive = served.end(signal.SIGINT)
    assert alive == []
    assert status == 0
    assert not served.answers()


def test_the_engine_ends_with_a_server_killed_in_its_first_moments(folder: Path, tmp_path: Path) -> None:
    served = ServeProcess(folder, free_port())
    served.launch(tmp_path / "serve.log")
    assert served.process is not None
    engine: list[psutil.Process] = []
    while not engine:  # vLLM's engine names itself before it shakes hands with the server
        assert served.process.poll() is None, (tmp_path / "serve.log").read_text()[-3000:]
        engine = [child for child in served.family() if "EngineCore" in child.name()]
        time.sleep(0.01)
    status, alive = served.end(signal.SIGKILL)
    assert (status, alive) == (-signal.SIGKILL, [])
