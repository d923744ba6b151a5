"""``grid export``."""

from __future__ import annotations

from pathlib import Path

import click

from transfergrid.commands.options import with_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder


@click.group("export")
def export_group() -> None:
    """Write a run's scores for other tools.

    \b
    Example:
      grid export lm-eval out --run runs/main
    """


@export_group.command("lm-eval")
@click.argument("output", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@with_config
def export_lm_eval_command(config: GridConfig, run: RunFolder, output: Path) -> None:
    """Write results and samples files of lm-evaluation-harness to DIR; 'grid import lm-eval' reads them back.

    \b
    Example:
      grid export lm-eval out --config grid.yaml --run runs/main
    """
    from transfergrid.engine.harness.export import export_lm_eval

    print_report(make_console(), export_lm_eval(config, run, output), soft_wrap=True)
