"""``grid lm-eval``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from transfergrid.commands.options import find_config, remote_code_option, say_remote_code
from transfergrid.commands.output import make_console, print_report
from transfergrid.commands.quiet import quiet_libraries
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.grid import UserError


@click.command("lm-eval")
@click.option("--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="Models and engine.")
@click.option("--model", help="A model's name in the configuration, or a folder, hub id or bundled model.")
@click.option(
    "--adapters",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of peft adapters; each is evaluated beside the base.",
)
@click.option("--tasks", required=True, help="Tasks, groups or patterns of lm-evaluation-harness, with commas between.")
@click.option("--num_fewshot", type=click.IntRange(min=0), help="Examples in every prompt; default: as the task says.")
@click.option(
    "--output_path",
    "output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results and samples files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@remote_code_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lm_eval_command(
    config_path: Path | None,
    model: str | None,
    adapters: Path | None,
    tasks: str,
    num_fewshot: int | None,
    output: Path,
    as_json: bool,
    allow_remote_code: bool,
    arguments: tuple[str, ...],
) -> None:
    """Run lm-evaluation-harness for the base and every adapter on one engine; finished results are kept.

    Options after '--' are the harness' own, such as --apply_chat_template, --limit, --include_path and --seed.

    \b
    Examples:
      grid lm-eval --model bundled:smollm2-135m-instruct --tasks xnli_sw,xnli_hi --output_path out
      grid lm-eval --adapters runs/main/adapters --tasks mmlu --num_fewshot 5 --output_path out -- --limit 100
      grid import lm-eval out --run runs/harness
    """
    quiet_libraries()
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("lm_eval").setLevel(os.environ.get("LMEVAL_LOG_LEVEL", "ERROR"))
    from transfergrid.engine.harness.run import HarnessRequest, run_harness

    config = find_config(config_path) or GridConfig()
    chosen = _choose_model(config, model)
    config = config.model_copy(update={"models": (chosen,)})
    say_remote_code(config, (), is_allowed=allow_remote_code)
    request = HarnessRequest(
        tasks=tuple(filter(None, tasks.split(","))),
        output=output,
        adapters=adapters,
        num_fewshot=num_fewshot,
        arguments=arguments,
    )
    report = run_harness(config, chosen, request, on_line=lambda line: click.echo(line, err=True))
    print_report(make_console(), report, "json" if as_json else None, soft_wrap=True)
    if not report.is_complete:
        sys.exit(1)


def _choose_model(config: GridConfig, model: str | None) -> ModelConfig:
    """Return the configuration's model of a name, else a model at a path; None is the configuration's only one."""
    names = [each.name for each in config.models]
    if model is None:
        if len(names) > 1:
            raise UserError(f"the configuration has the models {names}; choose one with --model")
        return config.models[0]
    named = [each for each in config.models if each.name == model]
    try:
        return named[0] if named else ModelConfig(path=model)
    except ValidationError as error:
        raise UserError(f"--model {model!r} is not usable: {error.errors()[0]['msg']}") from error
