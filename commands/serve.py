"""``grid serve``."""

from __future__ import annotations

from pathlib import Path

import click

from transfergrid.commands.options import remote_code_option, say_remote_code, with_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder


@click.command()
@with_config
@click.option("--model", "models", multiple=True, help="The model to serve, where the configuration has several.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; any but loopback needs an API key.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port.")
@click.option(
    "--api-key",
    envvar="TRANSFERGRID_API_KEY",
    show_envvar=True,
    help="Key that clients must send; the environment keeps it out of the list of processes.",
)
@click.option(
    "--adapter-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The only folder that adapters are loaded from; default: adapters of the run.",
)
@remote_code_option
def serve(
    config: GridConfig,
    run: RunFolder,
    models: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    adapter_root: Path | None,
    allow_remote_code: bool,
) -> None:
    """Keep one model in vLLM's OpenAI-compatible server, for 'grid eval --server' and other clients.

    \b
    Examples:
      grid serve --config grid.yaml --run runs/main
      TRANSFERGRID_API_KEY=... grid serve --model Qwen2.5-0.5B-Instruct --host 0.0.0.0 --port 8001
    """
    from transfergrid.engine.server.launch import ServeOptions, prepare_server

    say_remote_code(config, models, is_allowed=allow_remote_code)
    options = ServeOptions(host=host, port=port, api_key=api_key, adapter_root=adapter_root or run.adapters)
    start = prepare_server(config, models, options)
    print_report(make_console(), start, soft_wrap=True)
    start.run()
