"""The command line: every command parses, calls one function and prints what it returns."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from transfergrid import __version__
from transfergrid.benchmarks.config_file import load_config
from transfergrid.config import GridConfig
from transfergrid.grid import RunFolder, UserError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("grid.yaml"),
    show_default=True,
    help="Configuration; 'grid init' writes one.",
)
run_option = click.option(
    "--run",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/main"),
    show_default=True,
    help="Folder of the run: data, adapters, scores, tables, report.",
)


class GridGroup(click.Group):
    """Shows a UserError as one sentence with exit status 1; every other exception keeps its traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of a run, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning failures a user can fix into a message."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"grid: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("grid: interrupted; the same command goes on where it stopped", err=True)
            sys.exit(130)


def make_console() -> Console:
    """Return the one console; outside a terminal it is 100 columns wide unless COLUMNS says otherwise."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=100)
    return console


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its configuration and run folder from --config and --run."""

    @config_option
    @run_option
    @functools.wraps(command)
    def wrapped(config_path: Path, run_dir: Path, **options: Any) -> None:
        command(load_config(config_path), RunFolder(run_dir), **options)

    return wrapped


@click.group(cls=GridGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="grid")
def main() -> None:
    """Train one LoRA adapter per (task, language) cell, score all of them on all cells, see who helps whom.

    \b
    A run, step by step:
      grid init             write a commented grid.yaml
      grid plan             what would run and what it costs
      grid data             fetch and check the items
      grid train-adapters   one adapter per source cell
      grid eval             base and every adapter on every target cell
      grid analyze          regimes, donors and recipients, significance
      grid report           one HTML file
    """


@main.command()
@config_option
@click.option(
    "--preset", default="default", show_default=True, help="default: bundled model and items; paper: the study."
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--reference", is_flag=True, help="Print the reference of all settings in Markdown instead.")
def init(config_path: Path, preset: str, force: bool, reference: bool) -> None:
    """Write a commented configuration that names every setting.

    \b
    Examples:
      grid init
      grid init --preset paper --config paper.yaml
    """
    from transfergrid.benchmarks.config_text import render_reference, write_preset

    if reference:
        click.echo(render_reference(), nl=False)
        return
    write_preset(config_path, preset, overwrite=force)
    click.echo(f"written to {config_path}; next: grid plan --config {config_path}")


@main.command()
@with_config
def data(config: GridConfig, run: RunFolder) -> None:
    """Materialise the items and check that languages and splits fit together.

    \b
    Example:
      grid data --config grid.yaml --run runs/main
    """
    from transfergrid.benchmarks.materialise import materialise

    console = make_console()
    with console.status("reading items") as status:
        manifest = materialise(
            config, run.data, on_cell=lambda task, language: status.update(f"reading {task} {language}")
        )
    console.print(manifest)
    for remark in manifest.remarks:
        console.print(f"note: {remark}", soft_wrap=True)
    console.print(f"written to {run.data}")
