"""``grid init`` and ``grid data``: what a run starts with."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from transfergrid.commands.options import config_option, with_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder


@click.command()
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
    from transfergrid.config.text import render_reference, write_preset

    if reference:
        click.echo(render_reference(), nl=False)
        return
    write_preset(config_path, preset, overwrite=force)
    click.echo(f"written to {config_path}; next: grid plan --config {config_path}")


@click.command()
@with_config
def data(config: GridConfig, run: RunFolder) -> None:
    """Materialise the items and check that languages and splits fit together.

    \b
    Example:
      grid data --config grid.yaml --run runs/main
    """
    from transfergrid.benchmarks.materialise import materialise

    console = make_console()
    with hold_run_folder(run.root, "grid data"), console.status("reading items") as status:
        manifest = materialise(
            config, run.data, on_cell=lambda task, language: status.update(escape(f"reading {task} {language}"))
        )
    print_report(console, manifest)
    for remark in manifest.remarks:
        console.print(f"note: {remark}", soft_wrap=True, markup=False)
    console.print(f"written to {run.data}", markup=False)
