"""``grid status``."""

from __future__ import annotations

import click

from transfergrid.commands.options import with_optional_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder


@click.command("status")
@with_optional_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def status(config: GridConfig | None, run: RunFolder, as_json: bool) -> None:
    """Say what of a run is done, failed, left and stale; nothing is loaded, and a sweep may be running.

    \b
    Example:
      grid status --config grid.yaml --run runs/main
    """
    from transfergrid.view.status import read_status

    print_report(make_console(), read_status(run, config), "json" if as_json else None)
