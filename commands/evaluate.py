"""``grid eval``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from transfergrid.commands.options import (
    make_request,
    narrowing_options,
    pair_options,
    ray_options,
    remote_code_option,
    say_remote_code,
    with_config,
)
from transfergrid.commands.output import make_console, print_report
from transfergrid.commands.plan import show_estimate
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

if TYPE_CHECKING:
    from transfergrid.engine.cluster.ray_cluster import ClusterOptions
    from transfergrid.engine.interfaces import Backend


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
@click.option(
    "--engine",
    help="vllm (default), sequential, public (any vLLM, slower) or reference (transformers, float32).",
)
@click.option("--server", "server_url", help="Score through the 'grid serve' at this URL, in place of an engine here.")
@click.option("--api-key", envvar="TRANSFERGRID_API_KEY", show_envvar=True, help="Key of that server.")
@click.option("--force", is_flag=True, help="Score again what is finished; old parts move to scores/aside.")
@click.option("--noise-floor", is_flag=True, help="Score the base twice and store how many predictions flip.")
@click.option("--dry-run", is_flag=True, help="Show what would run, like 'grid plan'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@remote_code_option
def evaluate_command(
    config: GridConfig,
    run: RunFolder,
    cluster: ClusterOptions | None,
    multi_lora: bool,
    engine: str | None,
    server_url: str | None,
    api_key: str | None,
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
      grid eval --ray head:6379
    """
    from transfergrid.commands.quiet import quiet_libraries

    quiet_libraries()
    from transfergrid.commands.display.scoring import SweepDisplay
    from transfergrid.engine.evaluation.sweep import evaluate, evaluate_on_cluster

    request = make_request(**options)
    backend: Backend
    if dry_run:
        show_estimate(config, run, request, as_json=as_json)
    if cluster is not None and server_url is not None:
        raise UserError("--server scores through one server, --ray starts engines of its own; give one of the two")
    if server_url is None:
        say_remote_code(config, request.narrowing.models, is_allowed=allow_remote_code)
        config, backend = _choose(config, engine, multi_lora=multi_lora)
    else:
        from transfergrid.engine.evaluation.through_server import connect

        if not multi_lora or engine is not None:
            raise UserError("--server serves adapters as they are; leave out --sequential and --engine")
        server, request = connect(config, request, server_url, api_key=api_key)
        config, backend = server.config, server
    with SweepDisplay(Console(stderr=True) if as_json else make_console()) as display:
        if cluster is None:
            report = evaluate(config, run, request, backend=backend, on_event=display)
        else:
            report = evaluate_on_cluster(config, run, request, cluster, backend=backend, on_event=display)
    print_report(make_console(), report, "json" if as_json else None)
    if not report.is_complete:
        sys.exit(1)


def _choose(config: GridConfig, engine: str | None, *, multi_lora: bool) -> tuple[GridConfig, Backend]:
    """Return the configuration as the engine that was asked for computes, and its maker of scorers."""
    from transfergrid.engine.scorers.registry import choose_engine

    if not multi_lora and engine not in (None, "sequential"):
        raise UserError(f"--sequential and --engine {engine} are two ways to score; give one of them")
    chosen = choose_engine(engine or ("vllm" if multi_lora else "sequential"), config)
    return chosen.config, chosen.backend
