"""``quickstart``: a whole run on what is installed with the project, one command after the other."""

from __future__ import annotations

from pathlib import Path

import click

from transfergrid.benchmarks.config_text import ensure_preset
from transfergrid.cli import prepare, report, results, run

STEPS = (
    prepare.data,
    run.train_adapters_command,
    run.evaluate_command,
    results.analyze_command,
    report.report,
)
"""The commands of a run in their order."""


@click.command()
@click.option("--full", is_flag=True, help="All 44 cells instead of 2 tasks x 3 languages.")
@click.pass_context
def quickstart(context: click.Context, full: bool) -> None:
    """Do a whole run on the bundled model and items: train, score, analyse, report.

    No network and no GPU are needed. What runs is written to quickstart.yaml (quickstart-full.yaml) and
    is yours to change; results go to runs/quickstart (runs/quickstart-full). Stopped at any moment, the
    same command goes on; run again, it only shows what is there.

    \b
    Examples:
      grid quickstart
      grid quickstart --full
    """
    preset = "quickstart-full" if full else "quickstart"
    config_path, run_dir = Path(f"{preset}.yaml"), Path("runs") / preset
    ensure_preset(config_path, preset)
    for number, step in enumerate(STEPS, start=1):
        click.secho(f"[{number}/{len(STEPS)}] grid {step.name} --config {config_path} --run {run_dir}", bold=True)
        context.invoke(step, config_path=config_path, run_dir=run_dir)
