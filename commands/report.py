"""``grid report``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from transfergrid.commands.options import with_optional_config
from transfergrid.commands.output import make_console, print_report, say_next
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("report")
@with_optional_config
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The page; without it, report.html in the run."
)
@click.option("--png", type=_FOLDER, help="Also write figures for a paper into this folder, as PNG.")
@click.option("--svg", type=_FOLDER, help="Also write figures for a paper into this folder, as SVG.")
@click.option("--pdf", type=_FOLDER, help="Also write figures for a paper into this folder, as PDF.")
def report(config: GridConfig | None, run: RunFolder, out: Path | None, **folders: Path | None) -> None:
    """Write one HTML page that shows a run: summary, transfer matrix, regimes, roles, and where it all comes from.

    \b
    The page needs no network and no other file. Examples:
      grid report --config grid.yaml --run runs/main
      grid report --out transfer.html --svg figures
    """
    from transfergrid.analysis.report.page import write_report

    chosen = {form: folder for form, folder in folders.items() if folder is not None}
    with Console(stderr=True).status("analysing") as status:
        written = write_report(run, config, out=out, figure_folders=chosen, on_progress=status.update)
    console = make_console()
    print_report(console, written, soft_wrap=True)
    say_next(console, "view")
