"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from transfergrid.config.file import load_config
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

if TYPE_CHECKING:
    from transfergrid.engine.work.request import EvalRequest

Command = Callable[..., None]

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


def with_config(command: Command) -> Command:
    """Give a command its configuration and run folder from --config and --run."""

    @config_option
    @run_option
    @functools.wraps(command)
    def wrapped(config_path: Path, run_dir: Path, **options: Any) -> None:
        command(load_config(config_path), RunFolder(run_dir), **options)

    return wrapped


def find_config(path: Path | None) -> GridConfig | None:
    """Return the configuration that was named, else that of grid.yaml here; None: neither is there."""
    usual = Path("grid.yaml")
    return load_config(path or usual) if path is not None or usual.exists() else None


def with_optional_config(command: Command) -> Command:
    """Give a command its run folder, and the configuration where there is one; a file that was named must exist."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(dir_okay=False, path_type=Path),
        default=None,
        help="Configuration; default: grid.yaml where there is one, else default settings and whatever the run holds.",
    )
    @run_option
    @functools.wraps(command)
    def wrapped(config_path: Path | None, run_dir: Path, **options: Any) -> None:
        command(find_config(config_path), RunFolder(run_dir), **options)

    return wrapped


remote_code_option = click.option(
    "--allow-remote-code",
    is_flag=True,
    help="Let engine.vllm_args.trust_remote_code run the Python code that comes with a model.",
)


def say_remote_code(config: GridConfig, models: tuple[str, ...], *, is_allowed: bool) -> None:
    """Print on the error stream which code of models will run.

    Raises:
        UserError: If some would run and it is not allowed.
    """
    from transfergrid.engine.scorers.vllm_args import check_remote_code

    for line in check_remote_code(config, models, is_allowed=is_allowed):
        click.echo(f"note: {line}", err=True)


def output_options(command: Command) -> Command:
    """Give a command --json and --csv, as ``output``; None: a table for a reader."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
    @click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of tables.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, as_json: bool, as_csv: bool, **options: Any) -> None:
        if as_json and as_csv:
            raise UserError("--json and --csv are two forms of one output; give one of them")
        command(*arguments, output="json" if as_json else "csv" if as_csv else None, **options)

    return wrapped


source_option = click.option(
    "--source",
    "sources",
    multiple=True,
    help="Only this source: 'base', 'task-lang' or a name in 'sources'; repeatable.",
)


def _several(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return what gives a command some options, shown in this order."""
    return lambda command: functools.reduce(lambda given, option: option(given), reversed(options), command)


narrowing_options = _several(
    click.option(
        "--model", "models", multiple=True, help="Only this model, by its name in the configuration; repeatable."
    ),
    click.option("--task", "tasks", multiple=True, help="Only cells of this task; repeatable."),
    click.option("--language", "languages", multiple=True, help="Only cells of this language; repeatable."),
    click.option("--seed", "seeds", type=int, multiple=True, help="Only this training seed; repeatable."),
)


def ray_options(command: Command) -> Command:
    """Give a command --ray and --ray-workers; it gets ``cluster``, None without --ray."""

    @click.option(
        "--ray",
        "ray_address",
        is_flag=False,
        flag_value="auto",
        metavar="[ADDRESS]",
        help="Spread the work over a Ray cluster: the one at ADDRESS, else at RAY_ADDRESS, else a local one ('local').",
    )
    @click.option(
        "--ray-workers",
        type=click.IntRange(min=1),
        help="Workers of the cluster; default: one per GPU, without GPUs one per machine.",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, ray_address: str | None, ray_workers: int | None, **options: Any) -> None:
        from transfergrid.engine.cluster.ray_cluster import ClusterOptions

        cluster = None if ray_address is None else ClusterOptions(address=ray_address, n_workers=ray_workers)
        if cluster is None and ray_workers is not None:
            raise UserError(f"--ray-workers {ray_workers} is about a cluster; give --ray too")
        command(*arguments, cluster=cluster, **options)

    return wrapped


def engine_options(command: Command) -> Command:
    """Give a command --engine, its short forms --sequential and --server, and a server's key; it gets ``engine``."""

    @click.option(
        "--multi-lora/--sequential",
        default=True,
        show_default=True,
        help="One engine for all adapters, or every adapter merged and an engine start for each.",
    )
    @click.option(
        "--engine",
        help="vllm (default), sequential, server (with --server), public (any vLLM, slower) or "
        "reference (transformers, float32).",
    )
    @click.option("--server", "server_url", help="Score through the 'grid serve' at this URL, not an engine here.")
    @click.option("--api-key", envvar="TRANSFERGRID_API_KEY", show_envvar=True, help="Key of that server.")
    @functools.wraps(command)
    def wrapped(
        *arguments: Any,
        multi_lora: bool,
        engine: str | None,
        server_url: str | None,
        api_key: str | None,
        **options: Any,
    ) -> None:
        from transfergrid.engine.work.request import EngineOptions

        if server_url is not None and (not multi_lora or engine not in (None, "server")):
            raise UserError("--server serves adapters as they are; leave out --sequential and --engine")
        if not multi_lora and engine not in (None, "sequential"):
            raise UserError(f"--sequential and --engine {engine} are two ways to score; give one of them")
        name = engine or ("server" if server_url is not None else "vllm" if multi_lora else "sequential")
        command(*arguments, engine=EngineOptions(name, server_url, api_key), **options)

    return wrapped


adaptive_options = _several(
    click.option(
        "--adaptive",
        is_flag=True,
        help="Score 100 items of every pair, then stop pairs that can hardly become significant.",
    ),
    click.option(
        "--max-items",
        type=click.IntRange(min=1),
        help="With --adaptive: most items of a pair; default: all of the target's.",
    ),
)
pair_options = _several(
    source_option,
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
        help="CSV with path, task, language (or cells: task-lang+task-lang) and perhaps seed, model.",
    ),
)


def make_request(
    adapter_folder: Path | None,
    adapter_pattern: str,
    adapter_table: Path | None,
    *,
    adaptive: bool = False,
    max_items: int | None = None,
    **options: Any,
) -> EvalRequest:
    """Put the options of ``grid eval`` and ``grid plan`` into one record.

    Raises:
        UserError: If an option about adapters from elsewhere is given without their folder, or --max-items alone.
    """
    from transfergrid.config.selection import Narrowing
    from transfergrid.engine.adapters.places import DEFAULT_PATTERN, AdapterFolder
    from transfergrid.engine.work.request import EvalRequest
    from transfergrid.store.adaptive import Design

    if max_items is not None and not adaptive:
        raise UserError(f"--max-items {max_items} is about pairs that may stop early; give --adaptive too")
    kinds = ("models", "seeds", "tasks", "languages", "sources", "targets")
    narrowing = Narrowing(**{kind: options.pop(kind) for kind in kinds})
    adapters = None
    if adapter_folder is not None:
        adapters = AdapterFolder(folder=adapter_folder, pattern=adapter_pattern, table=adapter_table)
    elif adapter_table is not None:
        raise UserError(f"--adapter-table {str(adapter_table)!r} is about adapters from elsewhere; give --adapters too")
    elif adapter_pattern != DEFAULT_PATTERN:
        raise UserError(f"--adapter-pattern {adapter_pattern!r} is about adapters from elsewhere; give --adapters too")
    design = Design(max_items) if adaptive else None
    return EvalRequest(narrowing=narrowing, adapters=adapters, design=design, **options)
