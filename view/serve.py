"""Starts the local page."""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import suppress

import uvicorn

from transfergrid.analysis.charts.embed import description, libraries
from transfergrid.grid import UserError
from transfergrid.store.scores import UNREADABLE
from transfergrid.view.app import HOST, make_app
from transfergrid.view.pages import View


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


def prepare(view: View, listening: socket.socket) -> tuple[str, uvicorn.Server]:
    """Return the page's address, with a token that lets whoever has it read the run, and the server to `run`.

    Raises:
        UserError: If there is no such run folder.
    """
    if not view.run.root.is_dir():
        raise UserError(f"there is no run folder {str(view.run.root)!r}; name one with --run")
    threading.Thread(target=_warm, args=(view,), daemon=True).start()
    token = secrets.token_urlsafe(18)
    settings = uvicorn.Config(make_app(view, token=token), log_level="warning", lifespan="off")
    return f"http://{HOST}:{listening.getsockname()[1]}/?token={token}", uvicorn.Server(settings)


def _warm(view: View) -> None:
    """Do once what the first page of a kind would wait for; what fails here is said by the page itself."""
    libraries()
    with suppress(UserError, *UNREADABLE):
        view.page("overview", {})
        for chart in view.page("matrix", {}).charts.values():
            description(chart)
