"""``grid convert-adapter``."""

from __future__ import annotations

from pathlib import Path

import click

from transfergrid.commands.output import make_console


@click.command("convert-adapter")
@click.argument("source", metavar="IN", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
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
    from transfergrid.commands.quiet import quiet_libraries

    quiet_libraries()
    from transfergrid.engine.adapters.convert import convert_adapter
    from transfergrid.engine.models.resolve import resolve_model

    folder = None if base is None else resolve_model(base, revision)
    make_console().print(str(convert_adapter(source, target, base=folder)), markup=False)
