"""``grid plan``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from transfergrid.commands.options import adaptive_options, make_request, narrowing_options, pair_options, with_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder

if TYPE_CHECKING:
    from transfergrid.engine.work.request import EvalRequest


def show_estimate(config: GridConfig, run: RunFolder, request: EvalRequest, *, as_json: bool) -> None:
    """Print the size of a request; exit status 1 if a model cannot be planned."""
    from transfergrid.engine.work.estimate import estimate

    console = make_console()
    with Console(stderr=True).status("tokenising"):
        found = estimate(config, run, request)
    print_report(console, found, "json" if as_json else None)
    sys.exit(1 if found.unavailable else 0)


@click.command()
@with_config
@narrowing_options
@pair_options
@adaptive_options
@click.option("--power", is_flag=True, help="Show the smallest deltas that the run can tell from chance.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def plan(config: GridConfig, run: RunFolder, power: bool, as_json: bool, **options: Any) -> None:
    """Show what would run and what it costs; no model is loaded.

    \b
    Examples:
      grid plan --config grid.yaml --run runs/main
      grid plan --model Qwen2.5-0.5B-Instruct --language de
      grid plan --power
    """
    if power:
        from transfergrid.analysis.tables.power import plan_power

        print_report(make_console(), plan_power(config, run), "json" if as_json else None)
        return
    show_estimate(config, run, make_request(**options), as_json=as_json)
