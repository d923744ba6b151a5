"""The command line: every command parses, calls one function and prints what it returns."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from transfergrid import __version__
from transfergrid.benchmarks.config_file import load_config
from transfergrid.config import GridConfig
from transfergrid.grid import RunFolder, UserError

if TYPE_CHECKING:
    from transfergrid.engine.backends import Backend
    from transfergrid.engine.sweep import EvalRequest

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("grid.yaml"),
    show_default=True,
    help="Configuration; 'grid init' writes one.",
)
run_option = click.option(
    "--run",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/main"),
    show_default=True,
    help="Folder of the run: data, adapters, scores, tables, report.",
)


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


def make_console() -> Console:
    """Return the one console; outside a terminal it is 100 columns wide unless COLUMNS says otherwise."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=100)
    return console


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its configuration and run folder from --config and --run."""

    @config_option
    @run_option
    @functools.wraps(command)
    def wrapped(config_path: Path, run_dir: Path, **options: Any) -> None:
        command(load_config(config_path), RunFolder(run_dir), **options)

    return wrapped


def narrowing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --model, --task, --language and --seed, each repeatable; no option asks for all."""
    for name, kind, text in reversed(
        (
            ("--model", str, "Only this model, by its name in the configuration; repeatable."),
            ("--task", str, "Only cells of this task; repeatable."),
            ("--language", str, "Only cells of this language; repeatable."),
            ("--seed", int, "Only this training seed; repeatable."),
        )
    ):
        command = click.option(name, f"{name[2:]}s", type=kind, multiple=True, help=text)(command)
    return command


def pair_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --source and --target, each repeatable, and adapters from elsewhere."""
    for option in reversed(
        (
            click.option(
                "--source", "sources", multiple=True, help="Only this source: 'base' or 'task-lang'; repeatable."
            ),
            click.option("--target", "targets", multiple=True, help="Only this target cell, 'task-lang'; repeatable."),
            click.option(
                "--adapters",
                "adapter_folder",
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help="Score the peft adapters in this folder in place of the run's own.",
            ),
            click.option(
                "--adapter-pattern",
                default="{task}-{language}",
                show_default=True,
                help="How folders in --adapters are named; also {seed} and {model}.",
            ),
            click.option(
                "--adapter-table",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="CSV with path, task, language and perhaps seed, model, in place of the pattern.",
            ),
        )
    ):
        command = option(command)
    return command


def make_request(
    adapter_folder: Path | None, adapter_pattern: str, adapter_table: Path | None, **options: Any
) -> EvalRequest:
    """Put the options of ``grid eval`` and ``grid plan`` into one record."""
    from transfergrid.engine.foreign import ForeignAdapters
    from transfergrid.engine.selection import Narrowing
    from transfergrid.engine.sweep import EvalRequest

    kinds = ("models", "seeds", "tasks", "languages", "sources", "targets")
    narrowing = Narrowing(**{kind: options.pop(kind) for kind in kinds})
    foreign = None
    if adapter_folder is not None:
        foreign = ForeignAdapters(folder=adapter_folder, pattern=adapter_pattern, table=adapter_table)
    return EvalRequest(narrowing=narrowing, foreign=foreign, **options)


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
    """


@main.command()
@config_option
@click.option(
    "--preset", default="default", show_default=True, help="default: bundled model and items; paper: the study."
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--reference", is_flag=True, help="Print the reference of all settings in Markdown instead.")
def init(config_path: Path, preset: str, force: bool, reference: bool) -> None:
    """Write a commented configuration that names every setting.

    \b
    Examples:
      grid init
      grid init --preset paper --config paper.yaml
    """
    from transfergrid.benchmarks.config_text import render_reference, write_preset

    if reference:
        click.echo(render_reference(), nl=False)
        return
    write_preset(config_path, preset, overwrite=force)
    click.echo(f"written to {config_path}; next: grid plan --config {config_path}")


@main.command()
@with_config
@narrowing_options
@pair_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def plan(config: GridConfig, run: RunFolder, as_json: bool, **options: Any) -> None:
    """Show what would run and what it costs; no model is loaded.

    \b
    Examples:
      grid plan --config grid.yaml --run runs/main
      grid plan --model Qwen2.5-0.5B-Instruct --language de
    """
    show_estimate(config, run, make_request(**options), as_json=as_json)


def show_estimate(config: GridConfig, run: RunFolder, request: EvalRequest, *, as_json: bool) -> None:
    """Print what a request comes to; exit status 1 if a model is not to be had."""
    from transfergrid.engine.estimate import estimate

    console = make_console()
    with Console(stderr=True).status("tokenising"):
        found = estimate(config, run, request)
    print_result(console, found, as_json=as_json)
    sys.exit(1 if found.unavailable else 0)


def print_result(console: Console, result: Any, *, as_json: bool) -> None:
    """Print a report for a reader, or its ``as_json`` for a program."""
    if as_json:
        click.echo(json.dumps(result.as_json(), ensure_ascii=False, indent=2))
    else:
        console.print(result)


@main.command()
@with_config
def data(config: GridConfig, run: RunFolder) -> None:
    """Materialise the items and check that languages and splits fit together.

    \b
    Example:
      grid data --config grid.yaml --run runs/main
    """
    from transfergrid.benchmarks.materialise import materialise

    console = make_console()
    with console.status("reading items") as status:
        manifest = materialise(
            config, run.data, on_cell=lambda task, language: status.update(f"reading {task} {language}")
        )
    console.print(manifest)
    for remark in manifest.remarks:
        console.print(f"note: {remark}", soft_wrap=True)
    console.print(f"written to {run.data}")


@main.command()
@run_option
def doctor(run_dir: Path) -> None:
    """Say what of this machine serves training and scoring.

    \b
    Example:
      grid doctor
    """
    from transfergrid.engine.doctor import examine

    report = examine(run_dir)
    make_console().print(report)
    if not report.can_score:
        sys.exit(1)


@main.command("train-adapters")
@with_config
@narrowing_options
@click.option("--dry-run", is_flag=True, help="Check everything and list the adapters; train nothing.")
def train_adapters_command(config: GridConfig, run: RunFolder, dry_run: bool, **narrowing: tuple[Any, ...]) -> None:
    """Train one LoRA adapter per source cell, model and seed; finished adapters are kept.

    \b
    Examples:
      grid train-adapters --config grid.yaml --run runs/main
      grid train-adapters --task arc_challenge --language de --language hi --seed 42
      grid train-adapters --dry-run
    """
    from transfergrid.engine.selection import Narrowing, select
    from transfergrid.trainers.display import show_sweep
    from transfergrid.trainers.sweep import plan_training, train_adapters

    console = make_console()
    selection = select(config, Narrowing(**narrowing))
    if dry_run:
        console.print(plan_training(config, run, selection))
        return
    with show_sweep(console) as events:
        summary = train_adapters(config, run, selection, events=events)
    console.print(summary)
    summary.raise_failures()


@main.command("eval")
@with_config
@narrowing_options
@pair_options
@click.option(
    "--multi-lora/--sequential",
    default=True,
    show_default=True,
    help="One engine for all adapters, or every adapter merged and an engine start for each.",
)
@click.option("--force", is_flag=True, help="Score again what is finished; old parts move to scores/aside.")
@click.option("--noise-floor", is_flag=True, help="Score the base twice and store how many predictions flip.")
@click.option("--dry-run", is_flag=True, help="Show what would run, like 'grid plan'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def evaluate_command(
    config: GridConfig, run: RunFolder, multi_lora: bool, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Score the base and every adapter on every target cell; finished cells are kept.

    \b
    Examples:
      grid eval --multi-lora --config grid.yaml --run runs/main
      grid eval --source base --source arc_challenge-de --target hellaswag-fr
      grid eval --adapters ~/adapters --adapter-pattern 'lora_{task}_{language}_{seed}'
    """
    from transfergrid.engine.backends import MultiLora
    from transfergrid.engine.display import SweepDisplay
    from transfergrid.engine.sweep import evaluate

    request = make_request(**options)
    if dry_run:
        show_estimate(config, run, request, as_json=as_json)
    if multi_lora:
        backend: Backend = MultiLora(config.engine)
    else:
        from transfergrid.engine.sequential import Sequential

        backend = Sequential(config.engine)
    with SweepDisplay(Console(stderr=True) if as_json else make_console()) as display:
        report = evaluate(config, run, request, backend=backend, on_event=display)
    print_result(make_console(), report, as_json=as_json)
    sys.exit(0 if report.is_complete else 1)


if __name__ == "__main__":
    main()
