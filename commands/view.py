"""``grid status`` and ``grid view``: looking at a run."""

from __future__ import annotations

import click

from transfergrid.commands.options import with_optional_config
from transfergrid.commands.output import configuration_and_run, make_console, print_report
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

    found = read_status(run, config, where=configuration_and_run())
    print_report(make_console(), found, "json" if as_json else None)


@click.command("view")
@with_optional_config
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
def view(config: GridConfig | None, run: RunFolder, port: int) -> None:
    """Show a run in the browser: the matrix, and the items behind every number; a sweep may be running.

    \b
    Examples:
      grid view --run runs/main
      grid view --config grid.yaml --run runs/main --port 0
    """
    from transfergrid.view.pages import View
    from transfergrid.view.serve import open_port, prepare

    with open_port(port) as listening:
        url, server = prepare(View(run, config, where=configuration_and_run()), listening)
        make_console().print(f"{url}\nfor this machine only; Ctrl-C ends it", soft_wrap=True, markup=False)
        server.run([listening])
