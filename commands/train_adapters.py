"""``grid train-adapters``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from transfergrid.commands.options import narrowing_options, ray_options, source_option, with_config
from transfergrid.commands.output import make_console, print_report, say_next
from transfergrid.commands.quiet import quiet_libraries
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder

if TYPE_CHECKING:
    from transfergrid.engine.cluster.ray_cluster import ClusterOptions


@click.command("train-adapters")
@with_config
@narrowing_options
@source_option
@ray_options
@click.option("--dry-run", is_flag=True, help="Check everything and list the adapters; train nothing.")
def train_adapters_command(
    config: GridConfig, run: RunFolder, cluster: ClusterOptions | None, dry_run: bool, **narrowing: tuple[Any, ...]
) -> None:
    """Train one LoRA adapter per source, model and seed; finished adapters are kept.

    Sources are all cells, and the mixtures and merges that the configuration names; merges are made at the end.

    \b
    Examples:
      grid train-adapters --config grid.yaml --run runs/main
      grid train-adapters --task arc_challenge --language de --language hi --seed 42
      grid train-adapters --source romance-arc
      grid train-adapters --ray --ray-workers 2
      grid train-adapters --dry-run
    """
    quiet_libraries()
    from transfergrid.commands.display.training import show_sweep
    from transfergrid.config.selection import Narrowing, select
    from transfergrid.trainers.plan import plan_training
    from transfergrid.trainers.sweep import train_adapters, train_adapters_on_cluster

    console = make_console()
    selection = select(config, Narrowing(**narrowing))
    if dry_run:
        print_report(console, plan_training(config, run, selection))
        return
    with show_sweep(console) as events:
        if cluster is None:
            summary = train_adapters(config, run, selection, events=events)
        else:
            summary = train_adapters_on_cluster(config, run, selection, cluster, events=events)
    print_report(console, summary)
    say_next(console, "status" if summary.failed else "eval")
    summary.raise_failures()
