"""``grid data``."""

from __future__ import annotations

import click
from rich.markup import escape

from transfergrid.commands.options import with_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.store.lock import hold_run_folder


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
