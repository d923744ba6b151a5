"""The console, and the report of a command: printed for a reader, as JSON or as CSV."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import click
from rich.console import Console, RenderableType

from transfergrid.store.files import csv_text

if TYPE_CHECKING:
    import polars as pl


@runtime_checkable
class Report(Protocol):
    """What a command found."""

    def __rich__(self) -> RenderableType:
        """Show it to a reader."""
        ...

    def rows(self) -> pl.DataFrame:
        """Return its main table; CSV is made of it."""
        ...

    def as_json(self) -> Any:
        """Return all of it as JSON values."""
        ...


def make_console() -> Console:
    """Return the one console; outside a terminal it is 100 columns wide unless COLUMNS says otherwise."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=100)
    return console


def say_next(console: Console, *commands: str) -> None:
    """Print what to type next, with this command's configuration and run; within ``grid quickstart`` nothing."""
    if click.get_current_context().find_root().invoked_subcommand == "quickstart":
        return
    where = configuration_and_run()
    console.print(f"next: {', then '.join(f'grid {name} {where}' for name in commands)}", markup=False, soft_wrap=True)


def configuration_and_run() -> str:
    """Return the options with this command's configuration and run as a shell takes them; one not given is left out."""
    given = click.get_current_context().params
    options = {"--config": given.get("config_path"), "--run": given["run_dir"]}
    return " ".join(f"{name} {shlex.quote(str(path))}" for name, path in options.items() if path is not None)


def print_report(console: Console, report: Report, output: str | None = None, *, soft_wrap: bool = False) -> None:
    """Print what a command found.

    Args:
        console: Where a reader sees it.
        report: What the command found.
        output: ``json`` or ``csv`` for a program; None: for a reader.
        soft_wrap: Leave long lines whole, for paths that are copied.
    """
    if output == "json":
        click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
    elif output == "csv":
        click.echo(csv_text(report.rows()), nl=False)
    else:
        console.print(report, soft_wrap=soft_wrap)
