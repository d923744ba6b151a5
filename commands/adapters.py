"""``grid convert-adapter``, ``grid merge`` and ``grid push``: adapters as others take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from transfergrid.commands.options import narrowing_options, with_config
from transfergrid.commands.output import make_console, print_report
from transfergrid.commands.quiet import quiet_libraries
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder

_source = click.Path(exists=True, file_okay=False, path_type=Path)
_target = click.Path(path_type=Path)


@click.command("convert-adapter")
@click.argument("source", metavar="IN", type=_source)
@click.argument("target", metavar="OUT", type=_target)
@click.option("--base", help="Base model, a folder or hub id; needed for PiSSA, OLoRA and torchtune.")
@click.option("--revision", help="Revision of a base from the hub.")
def convert_adapter_command(source: Path, target: Path, base: str | None, revision: str | None) -> None:
    """Write the adapter in folder IN as a plain LoRA in peft's format, in the new folder OUT.

    Reads .bin files (as tensors alone), mlx-lm's and torchtune's adapters, keys with an adapter's name or a wrapper's
    prefix in them, and PiSSA and OLoRA adapters as they were trained. With --base, the result is compared with the
    source in peft, where peft can read it.

    \b
    Examples:
      grid convert-adapter old/arc_challenge-de adapters/arc_challenge-de
      grid convert-adapter pissa/xnli-sw adapters/xnli-sw --base HuggingFaceTB/SmolLM2-135M-Instruct
    """
    quiet_libraries()
    from transfergrid.engine.adapters.convert import convert_adapter
    from transfergrid.engine.models.resolve import resolve_model

    folder = None if base is None else resolve_model(base, revision)
    make_console().print(str(convert_adapter(source, target, base=folder)), markup=False)


@click.command("merge")
@click.argument("adapter", metavar="ADAPTER", type=_source)
@click.argument("target", metavar="OUT", type=_target)
@click.option("--base", help="Base model, a folder or hub id; default: the one the adapter was trained on.")
@click.option("--revision", help="Revision of a base from the hub.")
def merge_command(adapter: Path, target: Path, base: str | None, revision: str | None) -> None:
    """Write the base with the adapter in folder ADAPTER merged into its weights, a whole model, to the new folder OUT.

    \b
    Example:
      grid merge runs/main/adapters/Qwen2.5-0.5B-Instruct/s17/arc_challenge-de merged/arc-de
    """
    quiet_libraries()
    from transfergrid.engine.adapters.merge import merge_to_folder

    make_console().print(merge_to_folder(adapter, target, base=base, revision=revision), markup=False, soft_wrap=True)


@click.command("push")
@with_config
@narrowing_options
@click.option("--adapters", "account", metavar="ACCOUNT", required=True, help="User or organisation of the hub.")
@click.option("--public", is_flag=True, help="Make new repositories open to all; else they are private.")
def push_command(config: GridConfig, run: RunFolder, account: str, public: bool, **narrowing: tuple[Any, ...]) -> None:
    """Push the run's finished adapters to a hub account, each with a model card into a repository of its own.

    They go to ACCOUNT/MODEL-sSEED-SOURCE. The token is HF_TOKEN or that of 'hf auth login'.

    \b
    Example:
      grid push --adapters my-account --task arc_challenge --language de --run runs/main
    """
    from transfergrid.config.selection import Narrowing, select
    from transfergrid.trainers.publish import push_adapters

    console, selection = make_console(), select(config, Narrowing(**narrowing))
    with console.status("pushing") as status:
        report = push_adapters(
            run, selection, account, is_public=public, on_pushed=lambda name: status.update(f"pushed {name}")
        )
    print_report(console, report)
