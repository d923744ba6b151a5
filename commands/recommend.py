"""``grid recommend``."""

from __future__ import annotations

import click
from rich.console import Console

from transfergrid.commands.options import output_options, with_optional_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder


@click.command("recommend")
@click.option("--task", required=True, help="Task of the target cell.")
@click.option("--language", required=True, help="Language of the target cell.")
@click.option("--model", help="Only this model's deltas; default: all models of the run.")
@click.option("--avoid", is_flag=True, help="List the sources that probably harm, worst first.")
@click.option("--mix", "most", type=click.IntRange(2, 4), help="Propose a mixture of up to this many sources.")
@with_optional_config
@output_options
def recommend_command(
    config: GridConfig | None,
    run: RunFolder,
    task: str,
    language: str,
    model: str | None,
    avoid: bool,
    most: int | None,
    output: str | None,
) -> None:
    """Rank source cells for one target by a shrunken estimate of delta, with its interval and risk.

    \b
    Examples:
      grid recommend --task truthfulqa --language bn --run runs/main
      grid recommend --task hellaswag --language zh --model Qwen2.5-3B-Instruct --avoid
      grid recommend --task hellaswag --language zh --mix 3
    """
    from transfergrid.analysis.terminal.mix_recommendation import MixRecommendation, recommend_mix
    from transfergrid.analysis.terminal.recommendation import Recommendation, recommend
    from transfergrid.analysis.transfer.table import read_transfer

    if avoid and most is not None:
        raise UserError(f"--avoid lists single sources and --mix {most} proposes mixtures; give one of them")
    target = Cell(task, language)
    found: MixRecommendation | Recommendation
    with Console(stderr=True).status("reading scores"):
        if most is None:
            found = recommend(run, config, target=target, model=model, avoid=avoid)
        else:
            settings = (config or GridConfig()).analysis
            found = recommend_mix(read_transfer(run, config), settings, target=target, model=model, most=most)
    print_report(make_console(), found, output)
