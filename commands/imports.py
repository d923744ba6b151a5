"""``grid import``."""

from __future__ import annotations

from pathlib import Path

import click

from transfergrid.commands.options import run_option
from transfergrid.commands.output import make_console, print_report
from transfergrid.store.folder import RunFolder

_mismatch_option = click.option(
    "--allow-mismatch", is_flag=True, help="Keep adapters run under other conditions than their baseline."
)


@click.group("import")
def import_group() -> None:
    """Bring results from elsewhere into a run folder; no configuration is needed.

    \b
    Examples:
      grid import donors results.csv --run runs/published
      grid import lm-eval output/ --run runs/harness
      grid import every-eval-ever data/ --run runs/harness
    """


@import_group.command("donors")
@click.argument("csv", type=click.Path(dir_okay=False, path_type=Path))
@run_option
def import_donors_command(csv: Path, run_dir: Path) -> None:
    """Read the published results table of "Donors and Recipients" (arXiv 2511.13368).

    \b
    Example:
      grid import donors results.csv --run runs/published
    """
    from transfergrid.analysis.imports.donors import import_donors

    print_report(make_console(), import_donors(csv, RunFolder(run_dir)))


@import_group.command("lm-eval")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@_mismatch_option
@run_option
def import_lm_eval_command(folder: Path, run_dir: Path, allow_mismatch: bool) -> None:
    """Read lm-evaluation-harness results below DIR, item by item where samples were logged.

    Adapters must lie in folders named TASK-LANG, for example adapters/s17/arc_challenge-de; runs without an adapter
    are the baselines. Both must have been run alike: chat template, shots, task version, number format, quantisation,
    limit. --allow-mismatch keeps the others and says so beside each of their deltas.

    \b
    Example:
      grid import lm-eval output/ --run runs/harness
    """
    from transfergrid.analysis.imports.lm_eval import import_lm_eval

    print_report(make_console(), import_lm_eval(folder, RunFolder(run_dir), allow_mismatch=allow_mismatch))


@import_group.command("every-eval-ever")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@_mismatch_option
@run_option
def import_every_eval_ever_command(folder: Path, run_dir: Path, allow_mismatch: bool) -> None:
    """Read files of Every Eval Ever below DIR that its converter made of lm-evaluation-harness' output.

    Convert with --include_samples, else there are scores only and no items. The schema has no log-likelihoods, so that
    such rows have no graded transfer; 'grid import lm-eval' reads the harness' own files with them.

    \b
    Example:
      grid import every-eval-ever data/ --run runs/harness
    """
    from transfergrid.analysis.imports.every_eval_ever import import_every_eval_ever

    print_report(make_console(), import_every_eval_ever(folder, RunFolder(run_dir), allow_mismatch=allow_mismatch))
