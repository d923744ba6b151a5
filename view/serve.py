"""Starts the local page."""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import uvicorn
from rich.text import Text

from transfergrid.analysis.charts.embed import description, libraries
from transfergrid.grid import UserError
from transfergrid.store.scores import UNREADABLE
from transfergrid.view.app import HOST, make_app
from transfergrid.view.pages import View


@dataclass(frozen=True, slots=True)
class LocalPage:
    """A page that is ready to be served."""

    url: str
    """With its token; whoever has it can read the run."""

    def __rich__(self) -> Text:
        """Say where it is."""
        return Text(f"{self.url}\nfor this machine only; Ctrl-C ends it")

    def rows(self) -> pl.DataFrame:
        """Return the address."""
        return pl.DataFrame([asdict(self)])

    def as_json(self) -> dict[str, Any]:
        """Return the address."""
        return asdict(self)


def open_port(port: int) -> socket.socket:
    """Return a socket on this machine's loopback; 0 takes any free port.

    Raises:
        UserError: If another program has the port.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # whoever reads the address may ask at once
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port} cannot be used: {error.strerror}; give another with --port, or 0 for any"
        ) from error
    return listening


def prepare(view: View, listening: socket.socket) -> tuple[LocalPage, uvicorn.Server]:
    """Return the page's address and its server, which `run` on the socket starts.

    Raises:
        UserError: If there is no such run folder.
    """
    if not view.run.root.is_dir():
        raise UserError(f"there is no run folder {str(view.run.root)!r}; name one with --run")
    threading.Thread(target=_warm, args=(view,), daemon=True).start()
    token = secrets.token_urlsafe(18)
    settings = uvicorn.Config(make_app(view, token=token), log_level="warning", lifespan="off")
    url = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
    return LocalPage(url), uvicorn.Server(settings)


def _warm(view: View) -> None:
    """Do once what the first page of a kind would wait for; what fails here is said by the page itself."""
    libraries()
    with suppress(UserError, *UNREADABLE):
        view.page("overview", {})
        for chart in view.page("matrix", {}).charts.values():
            description(chart)
