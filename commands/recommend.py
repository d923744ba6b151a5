"""``grid recommend``."""

from __future__ import annotations

import click
from rich.console import Console

from transfergrid.commands.options import output_options, with_optional_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.grid import Cell
from transfergrid.store.folder import RunFolder


@click.command("recommend")
@click.option("--task", required=True, help="Task of the target cell.")
@click.option("--language", required=True, help="Language of the target cell.")
@click.option("--model", help="Only this model's deltas; default: all models of the run.")
@click.option("--avoid", is_flag=True, help="List the sources that probably harm, worst first.")
@with_optional_config
@output_options
def recommend_command(
    config: GridConfig | None,
    run: RunFolder,
    task: str,
    language: str,
    model: str | None,
    avoid: bool,
    output: str | None,
) -> None:
    """Rank source cells for one target by a shrunken estimate of delta, with its interval and risk.

    \b
    Examples:
      grid recommend --task truthfulqa --language bn --run runs/main
      grid recommend --task hellaswag --language zh --model Qwen2.5-3B-Instruct --avoid
    """
    from transfergrid.analysis.terminal.recommendation import recommend

    with Console(stderr=True).status("reading scores"):
        found = recommend(run, config, target=Cell(task, language), model=model, avoid=avoid)
    print_report(make_console(), found, output)
