"""Commands that load a model: ``train-adapters`` and ``eval``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from transfergrid.commands.options import (
    make_console,
    make_request,
    narrowing_options,
    pair_options,
    print_result,
    ray_options,
    show_estimate,
    with_config,
)
from transfergrid.config.settings import GridConfig
from transfergrid.grid import RunFolder, UserError

if TYPE_CHECKING:
    from transfergrid.engine.cluster.ray_cluster import ClusterOptions
    from transfergrid.engine.scorers.multi_lora import Backend


@click.command("train-adapters")
@with_config
@narrowing_options
@ray_options
@click.option("--dry-run", is_flag=True, help="Check everything and list the adapters; train nothing.")
def train_adapters_command(
    config: GridConfig, run: RunFolder, cluster: ClusterOptions | None, dry_run: bool, **narrowing: tuple[Any, ...]
) -> None:
    """Train one LoRA adapter per source cell, model and seed; finished adapters are kept.

    \b
    Examples:
      grid train-adapters --config grid.yaml --run runs/main
      grid train-adapters --task arc_challenge --language de --language hi --seed 42
      grid train-adapters --ray --ray-workers 2
      grid train-adapters --dry-run
    """
    from transfergrid.commands.quiet import quiet_libraries

    quiet_libraries()
    from transfergrid.commands.display.training import show_sweep
    from transfergrid.config.selection import Narrowing, select
    from transfergrid.trainers.sweep import plan_training, train_adapters

    console = make_console()
    selection = select(config, Narrowing(**narrowing))
    if dry_run:
        console.print(plan_training(config, run, selection))
        return
    with show_sweep(console) as events:
        if cluster is None:
            summary = train_adapters(config, run, selection, events=events)
        else:
            from transfergrid.trainers.on_cluster import train_adapters_on_cluster

            summary = train_adapters_on_cluster(config, run, selection, cluster, events=events)
    console.print(summary)
    summary.raise_failures()


@click.command("eval")
@with_config
@narrowing_options
@pair_options
@ray_options
@click.option(
    "--multi-lora/--sequential",
    default=True,
    show_default=True,
    help="One engine for all adapters, or every adapter merged and an engine start for each.",
)
@click.option("--server", "server_url", help="Score through the 'grid serve' at this URL, in place of an engine here.")
@click.option("--api-key", envvar="TRANSFERGRID_API_KEY", show_envvar=True, help="Key of that server.")
@click.option("--force", is_flag=True, help="Score again what is finished; old parts move to scores/aside.")
@click.option("--noise-floor", is_flag=True, help="Score the base twice and store how many predictions flip.")
@click.option("--dry-run", is_flag=True, help="Show what would run, like 'grid plan'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def evaluate_command(
    config: GridConfig,
    run: RunFolder,
    cluster: ClusterOptions | None,
    multi_lora: bool,
    server_url: str | None,
    api_key: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score the base and every adapter on every target cell; finished cells are kept.

    \b
    Examples:
      grid eval --multi-lora --config grid.yaml --run runs/main
      grid eval --source base --source arc_challenge-de --target hellaswag-fr
      grid eval --adapters ~/adapters --adapter-pattern 'lora_{task}_{language}_{seed}'
      grid eval --server http://127.0.0.1:8000
      grid eval --ray head:6379
    """
    from transfergrid.commands.quiet import quiet_libraries

    quiet_libraries()
    from transfergrid.commands.display.scoring import SweepDisplay
    from transfergrid.engine.evaluation.sweep import evaluate
    from transfergrid.engine.scorers.multi_lora import MultiLora

    request = make_request(**options)
    backend: Backend
    if dry_run:
        show_estimate(config, run, request, as_json=as_json)
    if server_url is not None:
        from transfergrid.engine.evaluation.through_server import connect

        if not multi_lora:
            raise UserError("--server serves adapters as they are; leave out --sequential")
        if cluster is not None:
            raise UserError("--server scores through one server, --ray starts engines of its own; give one of the two")
        server, request = connect(config, request, server_url, api_key=api_key)
        config, backend = server.config, server
    elif multi_lora:
        backend = MultiLora(config.engine)
    else:
        from transfergrid.engine.scorers.sequential import Sequential

        backend = Sequential(config.engine)
    with SweepDisplay(Console(stderr=True) if as_json else make_console()) as display:
        if cluster is None:
            report = evaluate(config, run, request, backend=backend, on_event=display)
        else:
            from transfergrid.engine.evaluation.on_cluster import evaluate_on_cluster

            report = evaluate_on_cluster(config, run, request, cluster, backend=backend, on_event=display)
    print_result(make_console(), report, as_json=as_json)
    if not report.is_complete:
        sys.exit(1)
