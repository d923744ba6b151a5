"""``grid init``."""

from __future__ import annotations

from pathlib import Path

import click

from transfergrid.commands.options import config_option


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
