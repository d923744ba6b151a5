"""``grid analyze``."""

from __future__ import annotations

import click
from rich.console import Console

from transfergrid.commands.options import output_options, with_optional_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder


class _AnalyzeCommand(click.Command):
    """Lists the tables in its help; they are imported only for that."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every TABLE with what one row of it is about."""
        from transfergrid.analysis.analyze import shown_names

        with formatter.section("TABLE, and what one row of it is about"):
            formatter.write_dl(list(shown_names().items()))


@click.command("analyze", cls=_AnalyzeCommand)
@click.argument("table", required=False)
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "graded"]),
    default="accuracy",
    show_default=True,
    help="What the matrix shows.",
)
@with_optional_config
@output_options
def analyze_command(
    config: GridConfig | None, run: RunFolder, table: str | None, metric: str, output: str | None
) -> None:
    """Say who helps whom, how surely and at what risk; every table goes to RUN/tables as Parquet and CSV.

    TABLE shows one of them in place of the summary.

    \b
    Examples:
      grid analyze --config grid.yaml --run runs/main
      grid analyze matrix --metric graded
      grid analyze transfer --csv > transfer.csv
    """
    from transfergrid.analysis.analyze import analyze

    with Console(stderr=True).status("reading scores") as status:
        report = analyze(
            run, config, table=table, metric=metric, on_progress=lambda name: status.update(f"computing {name}")
        )
    print_report(make_console(), report, output)
