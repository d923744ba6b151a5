"""``grid analyze``."""

from __future__ import annotations

import click
from rich.console import Console

from transfergrid.commands.options import output_options, with_optional_config
from transfergrid.commands.output import make_console, print_output
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder


@click.command("analyze")
@click.argument("table", required=False)
@with_optional_config
@output_options
def analyze_command(config: GridConfig | None, run: RunFolder, table: str | None, output: str | None) -> None:
    """Say who helps whom, how surely and at what risk; every table goes to RUN/tables as Parquet and CSV.

    \b
    TABLE shows one of them in place of the summary:
      regimes  roles  hierarchy  matrix  matrices  language_matrices
      variance  consistency  consistency_by_source  distance  distance_pairs
      transfer  transfer_by_seed  missing

    \b
    Examples:
      grid analyze --config grid.yaml --run runs/main
      grid analyze matrix
      grid analyze transfer --csv > transfer.csv
    """
    from transfergrid.analysis.analyze import analyze

    with Console(stderr=True).status("reading scores") as status:
        report = analyze(run, config, table=table, on_progress=lambda name: status.update(f"computing {name}"))
    print_output(make_console(), report, output)
