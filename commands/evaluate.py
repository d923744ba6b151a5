"""``grid eval``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from transfergrid.commands.options import (
    adaptive_options,
    engine_options,
    make_request,
    narrowing_options,
    pair_options,
    ray_options,
    remote_code_option,
    say_remote_code,
    with_config,
)
from transfergrid.commands.output import make_console, print_report, say_next
from transfergrid.commands.plan import show_estimate
from transfergrid.commands.quiet import quiet_libraries
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

if TYPE_CHECKING:
    from transfergrid.engine.cluster.ray_cluster import ClusterOptions
    from transfergrid.engine.work.request import EngineOptions


@click.command("eval")
@with_config
@narrowing_options
@pair_options
@ray_options
@engine_options
@adaptive_options
@click.option("--force", is_flag=True, help="Score again what is finished; old parts move to scores/aside.")
@click.option("--noise-floor", is_flag=True, help="Score the base twice and store how many predictions flip.")
@click.option("--dry-run", is_flag=True, help="Show what would run, like 'grid plan'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@remote_code_option
def evaluate_command(
    config: GridConfig,
    run: RunFolder,
    cluster: ClusterOptions | None,
    engine: EngineOptions,
    dry_run: bool,
    as_json: bool,
    allow_remote_code: bool,
    **options: Any,
) -> None:
    """Score the base and every adapter on every target cell; finished cells are kept.

    \b
    Examples:
      grid eval --multi-lora --config grid.yaml --run runs/main
      grid eval --source base --source arc_challenge-de --target hellaswag-fr
      grid eval --adapters ~/adapters --adapter-pattern 'lora_{task}_{language}_{seed}'
      grid eval --server http://127.0.0.1:8000
      grid eval --adaptive --ray head:6379
    """
    quiet_libraries()
    from transfergrid.commands.display.scoring import SweepDisplay
    from transfergrid.engine.evaluation.engines import choose_engine
    from transfergrid.engine.evaluation.sweep import evaluate, evaluate_on_cluster

    request = make_request(**options)
    if dry_run:
        show_estimate(config, run, request, as_json=as_json)
    if engine.name != "server":
        say_remote_code(config, request.narrowing.models, is_allowed=allow_remote_code)
    elif cluster is not None:
        raise UserError("--server scores through one server, --ray starts engines of its own; give one of the two")
    maker, config, request = choose_engine(config, request, engine)
    with SweepDisplay(Console(stderr=True) if as_json else make_console()) as display:
        if cluster is None:
            report = evaluate(config, run, request, maker=maker, on_event=display)
        else:
            report = evaluate_on_cluster(config, run, request, cluster, maker=maker, on_event=display)
    print_report(make_console(), report, "json" if as_json else None)
    say_next(Console(stderr=as_json), *(["report", "view"] if report.is_complete else ["status"]))
    if not report.is_complete:
        sys.exit(1)
