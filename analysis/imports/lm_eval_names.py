"""What names in lm-evaluation-harness' results mean: tasks, models and adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.grid import BASE, Cell, Source, UserError
from transfergrid.wording import one_line

ALIASES = {
    "arc": "arc_challenge",
    "arc_challenge": "arc_challenge",
    "hellaswag": "hellaswag",
    "truthfulqa": "truthfulqa",
    "global_mmlu": "global_mmlu",
    "global_mmlu_full": "global_mmlu",
}
"""Task names of lm-evaluation-harness without language and ``_mc1``; other names are kept."""

UNKNOWN_SEED = 0
"""Seed of an adapter whose path has no folder ``sSEED``."""


def task_cell(name: str) -> Cell | None:
    """Return the cell of a task name such as ``arc_de``, ``truthfulqa_bn_mc1`` or ``hellaswag`` (English).

    None: the name has no two-letter language and is no known task, or is a part of a task.
    """
    plain = name.removesuffix("_mc1")
    if plain in ALIASES:
        return Cell(ALIASES[plain], "en")
    stem, _, language = plain.rpartition("_")
    if not stem or not re.fullmatch(r"[a-z]{2}", language):
        return None
    try:
        return Cell(ALIASES.get(stem, stem), language)
    except UserError:
        return None


class Adapter(NamedTuple):
    """What a run scored, read from its model arguments."""

    base: str
    """Base model as it is named there."""
    folder: str | None
    """Folder of the adapter; None: the base model alone."""
    seed: int | None
    source: Source


def adapter_source(arguments: Mapping[str, Any]) -> Adapter:
    """Return base model, seed and source of a run's model arguments.

    The adapter's folder names its cell, ``.../sSEED/TASK-LANG``; ``peft`` and ``lora_local_path`` are read.

    Raises:
        UserError: If no base model is named, a name has control characters or the adapter's folder is not a cell.
    """
    base = arguments.get("pretrained") or arguments.get("model")
    if not isinstance(base, str) or not base.strip("/"):
        raise UserError(f"model_args {one_line(dict(arguments))} name no base model; expected 'pretrained=...'")
    path = arguments.get("peft") or arguments.get("lora_local_path")
    if not base.isprintable() or not str(path).isprintable():
        raise UserError(
            f"model_args name base model {one_line(base)!r} and adapter {one_line(path)!r}; expected names without "
            "control characters"
        )
    if not path:
        return Adapter(base.rstrip("/"), None, None, BASE)
    folder = Path(str(path))
    try:
        cell = Cell.parse(folder.name)
    except UserError as error:
        raise UserError(
            f"adapter folder {str(path)!r} does not say what it was trained on: {error}; name it TASK-LANG"
        ) from error
    seed = re.fullmatch(r"s([0-9]{1,18})", folder.parent.name)
    number = int(seed[1]) if seed else UNKNOWN_SEED
    return Adapter(base.rstrip("/"), str(path), number, Source.of(cell, number))


def parse_arguments(raw: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``model_args`` as a mapping; older files have them as ``a=1,b=2``."""
    if isinstance(raw, str):
        return dict(part.split("=", 1) for part in raw.split(",") if "=" in part)
    return dict(raw or {})
