"""The one console, and a result printed on it or as JSON or CSV."""

from __future__ import annotations

import json
import os
from typing import Any

import click
from rich.console import Console


def make_console() -> Console:
    """Return the one console; outside a terminal it is 100 columns wide unless COLUMNS says otherwise."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=100)
    return console


def print_result(console: Console, result: Any, *, as_json: bool) -> None:
    """Print a report for a reader, or its ``as_json`` for a program."""
    if as_json:
        click.echo(json.dumps(result.as_json(), ensure_ascii=False, indent=2))
    else:
        console.print(result)


def print_output(console: Console, result: Any, output: str | None) -> None:
    """Print a report for a reader, or its JSON or CSV for a program."""
    if output == "json":
        click.echo(result.to_json())
    elif output == "csv":
        click.echo(result.to_csv(), nl=False)
    else:
        console.print(result)
