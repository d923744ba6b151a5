"""The local web page over a run folder: loopback only, a token, and a policy that runs no script but its own."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import polars as pl
from jinja2 import Environment
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from transfergrid.analysis.charts.embed import description, libraries, page_script, page_style, script_json, themes
from transfergrid.analysis.report.numbers import templates
from transfergrid.grid import UserError
from transfergrid.store.files import csv_text
from transfergrid.view.pages import View

HOST = "127.0.0.1"
PAGES = ("overview", "matrix", "pair", "item", "source", "compare")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_REFRESH_S = 10
_COLUMNS = 44


def make_app(view: View, *, token: str) -> Starlette:
    """Return the server of a run's pages; it answers only who holds the token, in the URL once, then in a cookie."""
    environment = templates("transfergrid.view")
    environment.filters["seed"] = lambda seed: "none" if seed < 0 else seed
    environment.globals["link"] = link
    routes = [Route("/static/{name}", _static)]
    routes += [Route("/" if name == "overview" else f"/{name}", _endpoint(view, environment, name)) for name in PAGES]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts, Middleware(BaseHTTPMiddleware, dispatch=_guard(token))])


def _guard(token: str) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Return what lets only those in who hold the token, and adds the policy to every answer."""

    async def dispatch(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        cookie = f"grid_view_{request.url.port or 80}"
        given = request.query_params.get("token")
        if given is not None and secrets.compare_digest(given.encode(), token.encode()):
            rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
            response: Response = RedirectResponse(f"{request.url.path}?{urlencode(rest)}", status_code=303)
            response.set_cookie(cookie, token, httponly=True, samesite="strict")
        elif secrets.compare_digest(request.cookies.get(cookie, "").encode(), token.encode()):
            response = await answer(request)
        else:
            response = PlainTextResponse("open the URL that 'grid view' printed, then this one", status_code=403)
        response.headers.update(_HEADERS)
        return response

    return dispatch


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "page.css":
        own = resources.files("transfergrid.view").joinpath("view.css").read_text(encoding="utf-8")
        return _lasting(page_style(_COLUMNS) + own, "text/css")
    if name == "page.js":
        return _lasting(page_script(), "text/javascript")
    if name == "libraries.js":
        return _lasting(await run_in_threadpool(libraries), "text/javascript")
    return PlainTextResponse("there is no such file", status_code=404)


def _lasting(text: str, kind: str) -> Response:
    return Response(text, media_type=kind, headers={"Cache-Control": "private, max-age=600"})


def _endpoint(view: View, environment: Environment, name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        query = dict(request.query_params)
        try:
            page = view.page(name, query)
        except UserError as error:
            text = environment.get_template("fault.html.j2").render(
                name=name, title="Not here", fault=str(error), **_EMPTY
            )
            return HTMLResponse(text, status_code=404)
        if query.get("format") == "csv":
            return Response(
                csv_text(_flat(page.table)),
                media_type="text/csv",
                headers={"Content-Disposition": f"attachment; filename={name}.csv"},
            )
        charts = {each: description(chart) for each, chart in page.charts.items()}
        data = Markup(script_json({"charts": charts, "themes": themes()})) if charts else None
        csv = f"?{urlencode({**query, 'format': 'csv'})}"
        values: dict[str, Any] = {"title": page.title, "query": query, "data": data, "csv": csv, "refresh": None}
        values |= {"charts": list(charts)}
        if name == "overview" and any(row.left for row in page.values["status"].progress):
            values["refresh"] = _REFRESH_S
        return HTMLResponse(environment.get_template(f"{name}.html.j2").render(**values, **page.values))

    return answer


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose lists are text, their values separated by blanks."""
    lists = [name for name, dtype in table.schema.items() if isinstance(dtype, pl.List)]
    return table.with_columns(pl.col(lists).cast(pl.List(pl.String)).list.join(" "))


_EMPTY: Mapping[str, Any] = {"query": {}, "data": None, "csv": None, "refresh": None}


def link(page: str, /, **query: Any) -> str:
    """Return the address of a page; a part that is None is left out."""
    return f"/{page}?{urlencode({name: value for name, value in query.items() if value is not None})}"
