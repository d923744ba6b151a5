"""Commands after scoring: ``analyze``, ``recommend``, ``import``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from transfergrid.commands.options import make_console, output_options, print_output, run_option, with_optional_config
from transfergrid.config.settings import GridConfig
from transfergrid.grid import Cell, RunFolder


@click.command("analyze")
@click.argument("table", required=False)
@with_optional_config
@output_options
def analyze_command(config: GridConfig | None, run: RunFolder, table: str | None, output: str | None) -> None:
    """Say who helps whom, how surely and at what risk; every table goes to RUN/tables as Parquet and CSV.

    \b
    TABLE shows one of them in place of the summary:
      regimes  roles  hierarchy  matrix  matrices  language_matrices
      variance  consistency  consistency_by_source  distance  distance_pairs
      transfer  transfer_by_seed  missing

    \b
    Examples:
      grid analyze --config grid.yaml --run runs/main
      grid analyze matrix
      grid analyze transfer --csv > transfer.csv
    """
    from transfergrid.analysis.analyze import analyze

    with Console(stderr=True).status("reading scores") as status:
        report = analyze(run, config, table=table, on_progress=lambda name: status.update(f"computing {name}"))
    print_output(make_console(), report, output)


@click.command("recommend")
@click.option("--task", required=True, help="Task of the target cell.")
@click.option("--language", required=True, help="Language of the target cell.")
@click.option("--model", help="Only this model's deltas; default: all models of the run.")
@click.option("--avoid", is_flag=True, help="List the sources that probably harm, worst first.")
@with_optional_config
@output_options
def recommend_command(
    config: GridConfig | None,
    run: RunFolder,
    task: str,
    language: str,
    model: str | None,
    avoid: bool,
    output: str | None,
) -> None:
    """Rank source cells for one target by a shrunken estimate of delta, with its interval and risk.

    \b
    Examples:
      grid recommend --task truthfulqa --language bn --run runs/main
      grid recommend --task hellaswag --language zh --model Qwen2.5-3B-Instruct --avoid
    """
    from transfergrid.analysis.terminal.recommendation import recommend

    with Console(stderr=True).status("reading scores"):
        found = recommend(run, config, target=Cell(task, language), model=model, avoid=avoid)
    print_output(make_console(), found, output)


@click.group("import")
def import_group() -> None:
    """Bring results from elsewhere into a run folder; no configuration is needed.

    \b
    Examples:
      grid import donors results.csv --run runs/published
      grid import lm-eval output/ --run runs/harness
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

    make_console().print(import_donors(csv, RunFolder(run_dir)))


@import_group.command("lm-eval")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@run_option
def import_lm_eval_command(folder: Path, run_dir: Path) -> None:
    """Read lm-evaluation-harness results below DIR, item by item where samples were logged.

    Adapters must lie in folders named TASK-LANG, for example adapters/s17/arc_challenge-de; runs without an adapter
    are the baselines.

    \b
    Example:
      grid import lm-eval output/ --run runs/harness
    """
    from transfergrid.analysis.imports.lm_eval import import_lm_eval

    make_console().print(import_lm_eval(folder, RunFolder(run_dir)))
