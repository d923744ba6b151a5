"""Commands before anything is trained: ``init``, ``plan``, ``data``, ``doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from transfergrid.commands.options import (
    config_option,
    make_console,
    make_request,
    narrowing_options,
    pair_options,
    run_option,
    show_estimate,
    with_config,
)
from transfergrid.config.settings import GridConfig
from transfergrid.grid import RunFolder


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
@narrowing_options
@pair_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def plan(config: GridConfig, run: RunFolder, as_json: bool, **options: Any) -> None:
    """Show what would run and what it costs; no model is loaded.

    \b
    Examples:
      grid plan --config grid.yaml --run runs/main
      grid plan --model Qwen2.5-0.5B-Instruct --language de
    """
    show_estimate(config, run, make_request(**options), as_json=as_json)


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
    with console.status("reading items") as status:
        manifest = materialise(
            config, run.data, on_cell=lambda task, language: status.update(escape(f"reading {task} {language}"))
        )
    console.print(manifest)
    for remark in manifest.remarks:
        console.print(f"note: {remark}", soft_wrap=True, markup=False)
    console.print(f"written to {run.data}", markup=False)


@click.command()
@run_option
def doctor(run_dir: Path) -> None:
    """Say what of this machine serves training and scoring.

    \b
    Example:
      grid doctor
    """
    from transfergrid.commands.doctor import examine

    report = examine(run_dir)
    make_console().print(report)
    if not report.can_score:
        sys.exit(1)
