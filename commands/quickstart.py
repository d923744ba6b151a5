"""``grid quickstart``: a whole run on the bundled model and items, one command after the other."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from transfergrid.config.text import ensure_preset
from transfergrid.grid import UserError

STEPS: dict[str, tuple[str, ...]] = {
    "data": (),
    "train-adapters": (),
    "eval": ("multi_lora", "noise_floor"),
    "analyze": (),
    "report": (),
}
"""The commands of a run in their order, each with its switches."""


@click.command()
@click.option("--full", is_flag=True, help="All 44 cells instead of 2 tasks x 3 languages.")
@click.option(
    "--preset",
    type=click.Choice(("quickstart", "mixtures")),
    default="quickstart",
    show_default=True,
    help="mixtures: pairs of languages, trained together and merged; a smaller rank; a full fine-tune.",
)
@click.pass_context
def quickstart(context: click.Context, full: bool, preset: str) -> None:
    """Do a whole run on the bundled model and items: train, score, analyse, report.

    No network and no GPU are needed. The bundled model is built once, in ~/.cache/transfergrid or the
    folder that the environment variable TRANSFERGRID_CACHE names. What runs is written to quickstart.yaml
    (quickstart-full.yaml, mixtures.yaml) and is yours to change; results go to runs/quickstart (of the same name).
    Stopped at any moment, the same command goes on; run again, it only shows what is there.

    \b
    Examples:
      grid quickstart
      grid quickstart --full
      grid quickstart --preset mixtures
    """
    if full and preset != "quickstart":
        raise UserError(f"--full and --preset {preset} are two different runs; give one of them")
    preset = "quickstart-full" if full else preset
    config_path, run_dir = Path(f"{preset}.yaml"), Path("runs") / preset
    ensure_preset(config_path, preset)
    commands = cast("click.Group", context.find_root().command).commands
    for number, (name, switches) in enumerate(STEPS.items(), start=1):
        words = [f"grid {name}", *(f"--{switch.replace('_', '-')}" for switch in switches)]
        line = " ".join([*words, "--config", str(config_path), "--run", str(run_dir)])
        click.secho(f"[{number}/{len(STEPS)}] {line}", bold=True)
        context.invoke(commands[name], config_path=config_path, run_dir=run_dir, **dict.fromkeys(switches, True))
    click.echo(f"next: grid view --config {config_path} --run {run_dir}, the questions behind every number")
