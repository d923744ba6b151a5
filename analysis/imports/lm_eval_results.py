"""Reads results files of lm-evaluation-harness: which model, adapter and cell a score is of, and its samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.grid import BASE, Cell, Source, UserError

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

_RESULT_NAME = re.compile(r"results_(?P<time>.+)\.json")


class Samples(NamedTuple):
    """Logged samples of one task."""

    part: str
    """Which part of a group of tasks it is, without the group's name; empty: the task is no group."""
    path: Path


@dataclass(frozen=True, slots=True)
class Result:
    """The scores of one source on one target in one results file."""

    model: str
    seed: int | None
    """None: the base model."""
    source: Source
    target: Cell
    acc: float | None
    acc_norm: float | None
    stderr: float | None
    """Of the score, unpaired."""
    samples: tuple[Samples, ...]
    """Logged samples, one file per part of a group of tasks."""
    unlogged: tuple[str, ...]
    """Tasks of the harness whose samples are not there; none: every item of the target is in ``samples``."""
    time: str
    """When it was run, as in the file's name."""
    n_items: int | None
    """None: the file does not say."""

    @property
    def score(self) -> float:
        """acc_norm where the task has it, else acc."""
        return self.acc_norm if self.acc_norm is not None else (self.acc or 0.0)

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "acc" if self.acc_norm is None else "acc_norm"

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What is scored once; a later run replaces an earlier one."""
        return self.model, -1 if self.seed is None else self.seed, self.source.name, self.target.name


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


def adapter_source(arguments: Mapping[str, Any]) -> tuple[str, int | None, Source]:
    """Return model name, seed and source of a run's model arguments.

    The adapter's folder names its cell, ``.../sSEED/TASK-LANG``; ``peft`` and ``lora_local_path`` are read.

    Raises:
        UserError: If no base model is named or the adapter's folder is not a cell.
    """
    base = arguments.get("pretrained") or arguments.get("model")
    if not isinstance(base, str) or not base:
        raise UserError(f"model_args {dict(arguments)!r} name no base model; expected 'pretrained=...'")
    model = base.rstrip("/").rsplit("/", 1)[-1]
    path = arguments.get("peft") or arguments.get("lora_local_path")
    if not path:
        return model, None, BASE
    folder = Path(str(path))
    try:
        cell = Cell.parse(folder.name)
    except UserError as error:
        raise UserError(
            f"adapter folder {str(path)!r} does not say what it was trained on; name it 'TASK-LANG', "
            "for example '.../s17/arc_challenge-de'"
        ) from error
    seed = re.fullmatch(r"s(\d+)", folder.parent.name)
    number = int(seed[1]) if seed else UNKNOWN_SEED
    return model, number, Source.of(cell, number)


def parse_arguments(raw: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``model_args`` as a mapping; older files have them as ``a=1,b=2``."""
    if isinstance(raw, str):
        return dict(part.split("=", 1) for part in raw.split(",") if "=" in part)
    return dict(raw or {})


def read_results(path: Path, skipped: set[str]) -> Iterator[Result]:
    """Yield the results of one file that are of a cell.

    Args:
        path: ``results_TIME.json``; samples are looked for beside it.
        skipped: Names of tasks that are no cell, or have no acc, are added; parts of a group that is one are not.

    Raises:
        UserError: If the file is not of that kind or does not name its model or adapter.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results, config = content["results"], content["config"]
        arguments = parse_arguments(config.get("model_args"))
        children = {group: list(parts) for group, parts in content.get("group_subtasks", {}).items()}
        counts = {name: count.get("effective") for name, count in content.get("n-samples", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} is not a results file of lm-evaluation-harness: {error!r}") from error
    model, seed, source = adapter_source(arguments)
    named = _RESULT_NAME.fullmatch(path.name)
    time = named["time"] if named else path.name
    cells = [name for name in results if task_cell(name) is not None]
    parts = {part for name in cells for part in _descendants(name, children)}
    for name, scores in results.items():
        if name in parts:
            continue
        target = task_cell(name)
        scores = scores if isinstance(scores, Mapping) else {}
        acc = _number(scores.get("acc,none", scores.get("acc")))
        if target is None or acc is None:
            skipped.add(name)
            continue
        leaves = [part for part in _descendants(name, children) if not children.get(part)] or [name]
        logged = {leaf: path.with_name(f"samples_{leaf}_{time}.jsonl") for leaf in leaves}
        norm = _number(scores.get("acc_norm,none"))
        yield Result(
            model=model,
            seed=seed,
            source=source,
            target=target,
            acc=acc,
            acc_norm=norm,
            stderr=_number(scores.get("acc_stderr,none" if norm is None else "acc_norm_stderr,none")),
            samples=tuple(
                Samples("" if leaf == name else leaf.removeprefix(f"{name}_"), file)
                for leaf, file in logged.items()
                if file.exists()
            ),
            unlogged=tuple(leaf for leaf, file in logged.items() if not file.exists()),
            time=time,
            n_items=_total([counts.get(leaf) for leaf in leaves]),
        )


def _descendants(name: str, children: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the groups and tasks inside a group, at any depth, each once."""
    found: dict[str, None] = {}
    waiting = list(children.get(name, ()))
    while waiting:
        part = waiting.pop(0)
        if part not in found:
            found[part] = None
            waiting += children.get(part, ())
    return list(found)


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
