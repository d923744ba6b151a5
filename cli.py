"""The command line ``grid``, also ``python -m transfergrid.cli``: registers the commands.

Every command parses, calls one function and prints what it returns.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from transfergrid import __version__
from transfergrid.commands import (
    adapters,
    analyze,
    doctor,
    evaluate,
    imports,
    plan,
    prepare,
    quickstart,
    recommend,
    report,
    serve,
    train_adapters,
    view,
)
from transfergrid.commands.interchange import export, lm_eval
from transfergrid.grid import UserError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class GridGroup(click.Group):
    """Shows a UserError as one sentence with exit status 1; every other exception keeps its traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of a run, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning failures a user can fix into a message."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"grid: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("grid: interrupted; the same command goes on where it stopped", err=True)
            sys.exit(130)


@click.group(cls=GridGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="grid")
def main() -> None:
    """Train one LoRA adapter per (task, language) cell, score all of them on all cells, see who helps whom.

    \b
    A run, step by step:
      grid init             write a commented grid.yaml
      grid plan             what would run and what it costs
      grid data             fetch and check the items
      grid train-adapters   one adapter per source cell
      grid eval             base and every adapter on every target cell
      grid analyze          who helps whom, how surely, at what risk
      grid report           the same as one HTML page

    \b
    Beside it:
      grid quickstart       all of the above on the bundled model and items, in minutes
      grid status           what is done, failed and left
      grid view             the items behind every number, in the browser
      grid recommend        sources that help one target cell
      grid import           results from elsewhere, to analyze like a run's own
      grid export           a run's scores as files of lm-evaluation-harness
      grid lm-eval          run lm-evaluation-harness on this engine, with many adapters
      grid serve            keep a model running for 'grid eval --server'
      grid convert-adapter  write an adapter of another format in peft's
      grid merge            write base and adapter as one model
      grid push             put the run's adapters into a hub account
      grid doctor           check this machine for training and scoring
    """


for _command in (
    prepare.init,
    plan.plan,
    prepare.data,
    doctor.doctor,
    train_adapters.train_adapters_command,
    evaluate.evaluate_command,
    view.status,
    view.view,
    analyze.analyze_command,
    report.report,
    recommend.recommend_command,
    imports.import_group,
    quickstart.quickstart,
    serve.serve,
    lm_eval.lm_eval_command,
    adapters.convert_adapter_command,
    adapters.merge_command,
    adapters.push_command,
    export.export_group,
):
    main.add_command(_command)

if __name__ == "__main__":
    main()
