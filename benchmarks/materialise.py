"""Copy the rows a configuration names into the run folder, checked and aligned, with a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.benchmarks.alignment import (
    ReadTask,
    Splits,
    TaskCheck,
    check_copies,
    check_task,
    common_ids,
)
from transfergrid.benchmarks.golds import settle_golds
from transfergrid.benchmarks.harness.cells import read_harness_task, request_parts
from transfergrid.benchmarks.harness.index import TaskFinder
from transfergrid.benchmarks.harness.rows import HarnessReader
from transfergrid.benchmarks.rows import SPLITS, RowSource
from transfergrid.benchmarks.tasks import Question, RowError, Task, get_task
from transfergrid.benchmarks.values import remark_values, unusable_column
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError
from transfergrid.store.data_manifest import MANIFEST, DataManifest, read_manifest
from transfergrid.store.files import hash_files, hash_json, hash_text, telling_of_the_disk, write_json, write_text

SHOWN_FAULTS = 20


class _CheckedTask(NamedTuple):
    """The questions of a task that are kept."""

    read: ReadTask
    splits: Splits
    dropped: int


def request_hash(config: GridConfig) -> str:
    """Return a hash of everything in a configuration that decides the materialised rows."""
    specs = [
        request_parts(config, name)
        if name in config.harness_tasks
        else get_task(name, config.own_tasks).spec.model_dump(mode="json")
        for name in config.tasks
    ]
    data = config.data.model_dump(mode="json", exclude={"test_items_per_seed"})
    return hash_json({"data": data, "tasks": specs, "languages": sorted(config.languages)})


def materialise(config: GridConfig, folder: Path, *, on_cell: Callable[[str, str], None] | None = None) -> DataManifest:
    """Read, check and write the rows of every task, language and split.

    Args:
        config: Names the tasks, the languages and where the rows come from.
        folder: The run's data folder; ``TASK/LANG/{train,test}.jsonl`` and the manifest are written there.
        on_cell: Called with task and language before a cell is read.

    Raises:
        UserError: If rows cannot be read or a check fails (all faults are named, nothing is written), or the folder
            cannot be written.
    """
    earlier = read_manifest(folder)
    source = RowSource(config.data, pinned=earlier.pins if earlier else None)
    read = _read_tasks(config, source, on_cell)
    checked = {name: _check(each, get_task(name, config.own_tasks), config) for name, each in read.items()}
    if faults := [fault for each in read.values() for fault in each.found.faults]:
        raise UserError(_fault_message(faults))
    with telling_of_the_disk(folder):
        return _write(config, folder, source, checked)


def _read_tasks(
    config: GridConfig, source: RowSource, on_cell: Callable[[str, str], None] | None
) -> dict[str, ReadTask]:
    """Return the questions of every task; those of lm-evaluation-harness are all found before anything is read."""
    finder, reader, strict = TaskFinder(), HarnessReader(config), config.data.align == "strict"
    harness = {name: config.harness_tasks[name] for name in config.tasks if name in config.harness_tasks}
    found = {name: finder.find(asked) for name, asked in harness.items()}
    read = {}
    for name in config.tasks:
        task = get_task(name, config.own_tasks)
        if name in harness:
            read[name] = read_harness_task(task, harness[name], found[name], reader, on_cell=on_cell, strict=strict)
        else:
            read[name] = _read_task(task, config.languages, source, on_cell)
    return read


def _check(read: ReadTask, task: Task, config: GridConfig) -> _CheckedTask:
    """Check a task over languages and splits, note what is found, and keep the items that are asked for."""
    kept: Splits = {split: {} for split in SPLITS}
    dropped = 0
    for languages in read.together:
        part: Splits = {split: {each: by_id[each] for each in languages} for split, by_id in read.splits.items()}
        check = check_task(task.name, {**part}, strict=config.data.align == "strict")
        copies = check_copies(task, part["train"], part["test"])
        for each in (check, copies):
            read.found.faults.extend(each.faults)
            read.found.remarks.extend(each.remarks)
        selected, n_dropped = _select(part, config)
        dropped += n_dropped
        for split, by_language in selected.items():
            kept[split] |= by_language
    return _CheckedTask(read, kept, dropped)


def _read_task(
    task: Task, languages: tuple[str, ...], source: RowSource, on_cell: Callable[[str, str], None] | None
) -> ReadTask:
    """Return a task's questions, and the faults and remarks of single rows."""
    rows = {}
    for language in languages:
        if on_cell is not None:
            on_cell(task.name, language)
        for split in SPLITS:
            rows[f"{language} {split}"] = source.read(task.spec, language, split)
    golds = settle_golds(task, rows)
    found = TaskCheck(
        faults=[golds.fault] if golds.fault else [],
        remarks=[*([golds.remark] if golds.remark else []), *remark_values(task, rows)],
    )
    splits: Splits = {split: {} for split in SPLITS}
    for language in languages:
        for split in SPLITS:
            name = f"{language} {split}"
            splits[split][language] = _questions(task, golds.rows[name], f"{task.name} {name}", found.faults)
    return ReadTask(splits, found, [languages])


def _questions(task: Task, rows: list[dict[str, Any]], where: str, faults: list[str]) -> dict[str, Question]:
    questions: dict[str, Question] = {}
    if not rows:
        faults.append(f"{where}: no rows; expected at least one")
    for row in rows:
        try:
            question = task.question(row)
            for prompt_format in task.formats.values():
                if not prompt_format.build(question).context.strip():
                    raise RowError(f"item {question.item_id!r}: its {prompt_format.name} prompt is empty")
            if question.empty_choices:
                raise RowError(f"item {question.item_id!r}: choice {question.empty_choices[0]} is empty; expected text")
            if bad := unusable_column(task, row):
                raise RowError(
                    f"item {question.item_id!r}: column {bad!r} holds {type(row[bad]).__name__}; expected text"
                )
            if empty := [name for name in task.spec.text if not str(row.get(name) or "").strip()]:
                raise RowError(f"item {question.item_id!r}: column {empty[0]!r} is empty; expected text")
        except RowError as error:
            faults.append(f"{where}: {error}")
            continue
        if question.item_id in questions:
            faults.append(f"{where}: id {question.item_id!r} stands there twice")
        questions[question.item_id] = question
    return questions


def _select(splits: Splits, config: GridConfig) -> tuple[Splits, int]:
    """Keep common ids and the configured number of items, the same ids in every language."""
    limits = {"train": config.data.max_train_items, "test": config.data.max_test_items}
    selected: Splits = {}
    dropped = 0
    for split, questions in splits.items():
        ids = common_ids(questions)
        dropped += len(set().union(*questions.values()) - ids)
        if limits[split] is not None:
            ids = set(sorted(ids, key=hash_text)[: limits[split]])
        first = next(iter(questions.values()))
        ordered = [item_id for item_id in first if item_id in ids]
        selected[split] = {language: {i: by_id[i] for i in ordered} for language, by_id in questions.items()}
    return selected, dropped


def _fault_message(faults: list[str]) -> str:
    shown = "".join(f"\n  - {fault}" for fault in faults[:SHOWN_FAULTS])
    more = f"\n  and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    return f"the data has {len(faults)} fault(s), nothing was written:{shown}{more}"


def _write(config: GridConfig, folder: Path, source: RowSource, tasks: Mapping[str, _CheckedTask]) -> DataManifest:
    hashes = {}
    (folder / MANIFEST).unlink(missing_ok=True)
    for task, checked in tasks.items():
        for split, questions in checked.splits.items():
            for language, by_id in questions.items():
                lines = (json.dumps(dict(q.row), ensure_ascii=False, default=str) for q in by_id.values())
                write_text(folder / task / language / f"{split}.jsonl", "".join(line + "\n" for line in lines))
        for language in checked.splits["test"]:
            cell = folder / task / language
            hashes[f"{task}-{language}"] = hash_files([cell / "train.jsonl", cell / "test.jsonl"])
    harness = {task: each.read for task, each in tasks.items() if each.read.origin}
    manifest = DataManifest(
        request_hash=request_hash(config),
        source=config.data.source,
        revisions={
            **{task: pin.revision for task, pin in source.pins.items()},
            **{task: each.origin for task, each in harness.items()},
        },
        datasets={task: pin.dataset for task, pin in source.pins.items()},
        counts={
            task: {split: len(next(iter(questions.values()))) for split, questions in each.splits.items()}
            for task, each in tasks.items()
        },
        dropped={task: each.dropped for task, each in tasks.items()},
        remarks=[remark for each in tasks.values() for remark in each.read.found.remarks],
        languages=list(config.grid.every_language),
        hashes=hashes,
        metrics={task: each.metric for task, each in harness.items()},
        together={task: [list(each) for each in read.together] for task, read in harness.items()},
    )
    write_json(folder / MANIFEST, manifest.__dict__)
    return manifest


def has_data(config: GridConfig, folder: Path) -> bool:
    """Whether a run's data folder holds, unchanged, what a configuration asks for."""
    manifest = read_manifest(folder)
    return manifest is not None and manifest.request_hash == request_hash(config) and _complete(manifest, folder)


def ensure_data(config: GridConfig, folder: Path) -> DataManifest:
    """Return the manifest of a run's data, materialising it first if it is missing or was made for another request.

    The caller holds the lock of the run folder, or has called ``has_data``.
    """
    manifest = read_manifest(folder)
    return manifest if manifest is not None and has_data(config, folder) else materialise(config, folder)


def _complete(manifest: DataManifest, folder: Path) -> bool:
    for name, expected in manifest.hashes.items():
        task, _, language = name.partition("-")
        paths = [folder / task / language / f"{split}.jsonl" for split in SPLITS]
        if not all(path.is_file() for path in paths) or hash_files(paths) != expected:
            return False
    return True
