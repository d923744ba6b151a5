"""Who comes in at ``grid serve``, and from where adapters are loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.engine.fake_server import FakeServer, serve_fake
from tests.models import edit_json
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.server import guard as server_guard
from transfergrid.engine.server import passes as server_passes
from transfergrid.engine.server.confine import confine
from transfergrid.engine.server.guard import GuardMiddleware, RefusalError, confine_body
from transfergrid.engine.server.wire import INSTANCE_HEADER, STEPS_TYPE, pack_frame, unpack_frames


@pytest.fixture
def folder(adapter_root: Path, tiny_adapters: tuple[Path, ...]) -> Path:
    shutil.copytree(tiny_adapters[0], adapter_root / "inside")
    shutil.copytree(tiny_adapters[1], adapter_root.parent / "outside")
    return adapter_root


@pytest.mark.parametrize("path", ["inside", "./inside", "x/../inside", "{root}/inside", "{root}/../adapters/inside"])
def test_an_adapter_under_the_root_is_found_however_it_is_written(path: str, folder: Path) -> None:
    (folder / "x").mkdir()
    assert confine(path.format(root=folder), folder) == (folder / "inside").resolve()


@pytest.mark.parametrize(
    "path",
    ["../outside", "inside/../../outside", "{root}/../outside", "{root}x", "/", "~", "someone/some-adapter", "a\0b"],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str, folder: Path) -> None:
    shutil.copytree(folder / "inside", Path(f"{folder}x"))
    with pytest.raises(AdapterError, match=r"is not under|no adapter at|cannot be resolved"):
        confine(path.format(root=folder), folder)


def test_links_are_followed_before_they_are_judged(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "outside")
    (folder / "good-link").symlink_to(folder / "inside")
    (folder / "half").mkdir()
    for file in (folder.parent / "outside").iterdir():
        (folder / "half" / file.name).symlink_to(file)
    (folder / "loop").symlink_to(folder / "loop")
    assert confine("good-link", folder) == (folder / "inside").resolve()
    for path in ("link", "half"):
        with pytest.raises(AdapterError, match="is not under"):
            confine(path, folder)
    with pytest.raises(AdapterError, match=r"cannot be resolved|no adapter at"):
        confine("loop", folder)


def test_what_vllm_gets_is_the_resolved_path(folder: Path) -> None:
    body = confine_body(b'{"lora_name": "x", "lora_path": "inside"}', folder)
    assert json.loads(body) == {"lora_name": "x", "lora_path": str((folder / "inside").resolve())}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[" * 60_000, 400, "the body is not JSON: .*nested deeper than 100 brackets"),
        (
            b'{"lora_path": "inside", "lora_path": "../outside"}',
            400,
            "the body is not JSON: key 'lora_path' is there twice",
        ),
        (b'{"lora_path": "' + b"x" * 300 + b'"}', 403, "adapter path 'x{80}' cannot be resolved: File name too long"),
        (b"[]", 400, "expected a JSON object"),
        (b'{"lora_path": 3}', 400, "expected a JSON object"),
        (b'{"lora_path": "../outside"}', 403, "is not under"),
    ],
)
def test_another_body_is_refused(body: bytes, status: int, message: str, folder: Path) -> None:
    with pytest.raises(RefusalError, match=message) as refused:
        confine_body(body, folder)
    assert refused.value.status == status


def test_an_adapter_that_would_spoil_the_answers_to_others_is_not_loaded(server: FakeServer, folder: Path) -> None:
    def refusal() -> tuple[int, str]:
        body = {"lora_name": "mine", "lora_path": "inside"}
        answer = httpx.post(f"{server.url}/v1/load_lora_adapter", json=body)
        return answer.status_code, answer.json()["error"]["message"]

    file = folder / "inside" / "adapter_model.safetensors"
    weights = load_file(file)
    key = next(iter(weights))
    save_file({**weights, key: weights[key] * np.float32("nan")}, file)
    status, message = refusal()
    assert (status, f"'{key}' holds NaN or infinity" in message) == (400, True), message
    save_file(weights, file)
    edit_json(folder / "inside" / "adapter_config.json", init_lora_weights="pissa")
    status, message = refusal()
    assert (status, "which changes the base's weights" in message) == (400, True), message
    assert server.loaded == {}


def test_the_server_loads_from_its_folder_only(server: FakeServer, folder: Path) -> None:
    def load(path: str, url: str = "/v1/load_lora_adapter") -> int:
        return httpx.post(
            server.url + url, json={"lora_name": path, "lora_path": path}, follow_redirects=True
        ).status_code

    assert load("inside") == 200
    assert load("../outside") == 403
    assert load(str(folder.parent / "outside")) == 403
    assert load("../outside", "/v1/%6coad_lora_adapter") == 403
    assert load("../outside", "/v1/load_lora_adapter/") == 403
    assert load("../outside", "/adapters") == 404
    assert load("x" * 70_000) == 413
    assert load("x" * 300) == 403
    for path in ("/v1/load_lora_adapter", "/v1/completions"):
        answer = httpx.post(server.url + path, content=b"[" * 50_000)
        assert (answer.status_code, "nested deeper than 100" in answer.text) == (400, True)
    assert list(server.loaded) == ["inside"]


def test_every_path_but_health_needs_the_key(folder: Path) -> None:
    def ask(path: str, **headers: str) -> int:
        return httpx.get(closed.url + path, headers=headers).status_code

    with serve_fake(folder, api_key="right") as closed:
        assert ask("/health") == 200
        for path in ("/v1/models", "/grid/v1/server", "/version", "/metrics", "/adapters", "/"):
            assert ask(path) == 401
            assert ask(path, Authorization="Bearer wrong") == 401
            assert ask(path, Authorization="right") == 401
        assert ask("/v1/models", Authorization="Bearer right") == 200
        assert ask("/v1/models", Authorization="Bearer right", Host="grid.example:8000") == 200
        assert ask("/collective_rpc", Authorization="Bearer right") == 404


def test_pages_of_other_sites_do_not_reach_a_server_without_a_key(server: FakeServer) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"Host": "evil.example:80"}).status_code == 403
    assert httpx.get(f"{server.url}/v1/models", headers={"Host": "[::1"}).status_code == 403
    assert httpx.get(f"{server.url}/v1/models", headers={"Host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_posts_nothing_to_a_server_without_a_key(
    headers: dict[str, str], server: FakeServer, folder: Path
) -> None:
    body = json.dumps({"lora_name": "inside", "lora_path": "inside"})
    plain = {"Content-Type": "text/plain", **headers}  # what a browser sends without asking first
    answer = httpx.post(f"{server.url}/v1/load_lora_adapter", content=body, headers=plain)
    assert (answer.status_code, "takes no requests of web pages" in answer.text) == (403, True)
    assert server.loaded == {}
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert httpx.get(f"{server.url}/v1/models", headers=own).status_code == 200
    with serve_fake(folder, api_key="right") as closed:
        bearer = {**plain, "Authorization": "Bearer right"}
        assert httpx.post(f"{closed.url}/v1/load_lora_adapter", content=body, headers=bearer).status_code == 200


def test_a_pass_that_does_not_fit_is_refused_before_the_engine_sees_it(
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = httpx.get(f"{server.url}/grid/v1/server").json()
    good = {INSTANCE_HEADER: facts["instance"], "Content-Type": STEPS_TYPE}

    def post(body: bytes, headers: dict[str, str], **query: str) -> tuple[int, str]:
        answer = httpx.post(f"{server.url}/grid/v1/score", content=body, headers=headers, params=query)
        return answer.status_code, answer.text

    def refusal(status: int, message: str, *request: Any, **query: str) -> None:
        found, text = post(*request, **query)
        assert (found, message in text) == (status, True), (found, text)

    refusal(409, "plan again", b"", {**good, INSTANCE_HEADER: "other"})
    refusal(415, "expected a body of type", b"", {**good, "Content-Type": "text/plain"})
    refusal(404, "is not loaded", b"", good, adapter="nobody")
    refusal(400, "not a packed step", pack_frame(b"S", b"1234"), good)
    refusal(400, "unfinished frame", b"S", good)
    monkeypatch.setattr(server_guard, "MAX_SCORE_BYTES", 10)
    refusal(413, "longer than 10 bytes", b"S" * 20, good)
    monkeypatch.setattr(server_passes, "MAX_WAITING", 0)
    refusal(503, "come back later", b"", good)
    assert server.engine.calls == []
    assert httpx.get(f"{server.url}/grid/v1/adapter").status_code == 400


def test_websockets_are_closed() -> None:
    import asyncio

    sent = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    async def send(message: Any) -> None:
        sent.append(message)

    setup = server_guard.GuardSetup(api_key=None, adapter_root="/", model="", revision="", vllm_args={})
    asyncio.run(GuardMiddleware(app, setup)({"type": "websocket"}, send, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_guard_is_not_started_without_its_setup() -> None:
    assert server_guard.SETUP_VARIABLE not in os.environ
    with pytest.raises(RuntimeError, match="is not set; this middleware is started by 'grid serve'"):
        GuardMiddleware(lambda *_: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_frames_survive_any_cut(size: int) -> None:
    frames = [(b"S", b"12345678"), (b"W", b""), (b"E", b"{}" * 50)]
    stream = b"".join(pack_frame(*frame) for frame in frames)
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert list(unpack_frames(chunks)) == frames
    with pytest.raises(ValueError, match="unfinished frame"):
        list(unpack_frames([stream[:-1]]))
