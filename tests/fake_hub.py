"""A hub on loopback that takes repositories and commits, as far as huggingface_hub asks it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_fake_hub"


@dataclass
class FakeHub:
    """What was pushed."""

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)


@contextmanager
def serve_hub() -> Iterator[FakeHub]:  # noqa: C901 - one case for every question
    """Serve a hub until the end of the block; it takes one token, and every file within the commit."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer(401, {"error": "Invalid username or password."})
                return
            parts = self.path.split("?")[0].strip("/").split("/")
            match parts:
                case ["api", "repos", "create"]:
                    asked = json.loads(body)
                    name = f"{asked['organization']}/{asked['name']}"
                    known = name in hub.files
                    hub.files.setdefault(name, {})
                    hub.private.setdefault(name, asked["visibility"] == "private")
                    self._answer(409 if known else 200, {"url": f"{hub.address}/{name}", "name": name})
                case ["api", "validate-yaml"]:
                    self._answer(200, {"errors": [], "warnings": []})
                case ["api", "models", owner, name, "preupload", _]:
                    asked = json.loads(body)["files"]
                    modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
                    self._answer(200, {"files": modes})
                case ["api", "models", owner, name, "commit", _]:
                    for line in body.decode().splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            value = entry["value"]
                            hub.files[f"{owner}/{name}"][value["path"]] = base64.b64decode(value["content"])
                    where = f"{hub.address}/{owner}/{name}"
                    self._answer(200, {"commitUrl": f"{where}/commit/{'0' * 40}", "commitOid": "0" * 40})
                case _:
                    self._answer(404, {"error": self.path})

        def do_GET(self) -> None:
            self._answer(404, {"error": self.path})

        def _answer(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
