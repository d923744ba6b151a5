"""An adapter's folder: it is complete or absent, and a record beside the weights says how they were made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.card import CARD_FILE, adapter_card
from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from transfergrid.engine.interfaces import AdapterError
from transfergrid.grid import UserError
from transfergrid.store.files import hash_files, move_into_place, write_json
from transfergrid.store.folder import FAILURE_SUFFIX, RunFolder
from transfergrid.store.key import changed_parts
from transfergrid.trainers.full_model import write_full
from transfergrid.trainers.jobs import AdapterJob, ResolvedModel
from transfergrid.trainers.record import read_record, settings_of

_SHOWN_KEYS = 3


def unfinished_root(run: RunFolder) -> Path:
    """Return where adapters are put together; outside ``adapters/``, so that nothing there is half-written."""
    return run.root / ".unfinished"


@contextmanager
def unfinished_folder(run: RunFolder, job: AdapterJob) -> Iterator[Path]:
    """Give out an empty folder for one adapter, and remove it at the end; a killed process leaves it to the next sweep.

    Raises:
        UserError: If the disk is full or not writable.
    """
    folder = unfinished_root(run) / job.name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    with _telling_of_the_disk(job):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_finished(job: AdapterJob, config: GridConfig) -> bool:
    """Whether a job's adapter is there.

    Raises:
        AdapterError: If it is broken, or was trained with other settings; says which.
    """
    record = read_record(job.folder)
    if record is None:
        return False
    stored, wanted = settings_of(record), job.key_parts(config)
    if changed := changed_parts(stored, wanted):
        raise AdapterError(
            f"adapter {job.name!r} was trained with other settings ({'; '.join(changed)}); "
            f"{_way_to_its_dtype(stored, wanted, config)}use another --run, or delete {str(job.folder)!r}"
        )
    return True


def _way_to_its_dtype(stored: Mapping[str, Any], wanted: Mapping[str, Any], config: GridConfig) -> str:
    """Return how to go on in the number format of an adapter where only this machine's ``auto`` says another."""
    if "training" not in wanted:  # a merge
        return ""
    here, there = wanted["training"]["dtype"], stored.get("training", {}).get("dtype")
    only_dtype = {**wanted, "training": {**wanted["training"], "dtype": there}} == stored
    if config.training.dtype != "auto" or not only_dtype:
        return ""
    return f"training.dtype auto means {here!r} on this machine, set it to {there!r} to go on, or "


def save_adapter(
    model: Any, folder: Path, job: AdapterJob, *, record: Mapping[str, Any], expected: set[str] | None
) -> None:
    """Write an adapter and its record, compare its keys, and move the folder into place in one step.

    Args:
        model: The peft model, or the model of a full fine-tune.
        folder: Empty scratch folder on the run folder's disk.
        job: Names the final folder.
        record: What ``training.json`` says besides the hash.
        expected: Keys the saved weights must have; None: it is a full fine-tune.

    Raises:
        AdapterError: If keys are missing or unexpected.
        UserError: If the disk is full or not writable.
    """
    with _telling_of_the_disk(job):
        shutil.rmtree(folder)
        if expected is None:
            write_full(model, folder, record["resolved"]["dtype"])
        else:
            model.save_pretrained(str(folder), save_embedding_layers=False)
            _compare_keys(folder / WEIGHTS_FILE, expected, job.name)
        _add_origin(folder / WEIGHTS_FILE, job, record)
        adapter_config = _make_comparable(folder / CONFIG_FILE, job.model)
        whole = {**record, "content_hash": hash_files([folder / CONFIG_FILE, folder / WEIGHTS_FILE])}
        write_json(folder / RECORD_FILE, whole)
        (folder / CARD_FILE).write_text(adapter_card(whole, adapter_config), encoding="utf-8")
        _move_into_place(folder, job)


def read_adapter(folder: Path) -> dict[str, bytes]:
    """Return the files of a finished adapter by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def place_adapter(folder: Path, job: AdapterJob, files: Mapping[str, bytes]) -> None:
    """Write the files of an adapter that was trained elsewhere, and move the folder into place in one step.

    Raises:
        AdapterError: If the weights are not those of the record.
        UserError: If the disk is full or not writable.
    """
    with _telling_of_the_disk(job):
        for name, content in files.items():
            (folder / name).write_bytes(content)
    read_record(folder)
    with _telling_of_the_disk(job):
        _move_into_place(folder, job)


def _move_into_place(folder: Path, job: AdapterJob) -> None:
    move_into_place(folder, job.folder)
    failure_file(job.folder).unlink(missing_ok=True)


def failure_file(folder: Path) -> Path:
    """Return the note that an adapter failed; it lies beside the adapter's folder, which does not exist then."""
    return folder.with_name(f"{folder.name}{FAILURE_SUFFIX}")


def mark_failed(job: AdapterJob, reason: str) -> None:
    """Note why an adapter failed; the note is removed once the adapter is trained.

    Raises:
        UserError: If the disk is full or not writable.
    """
    with _telling_of_the_disk(job):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(failure_file(job.folder), {"reason": reason, "time": now})


@contextmanager
def _telling_of_the_disk(job: AdapterJob) -> Iterator[None]:
    """Turn a file that cannot be written into a sentence; safetensors has an error of its own for a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"adapter {job.name!r} cannot be saved under {str(job.folder.parent)!r}: {reason}; make room or make it "
            "writable, and give the same command again"
        ) from error


def _compare_keys(weights: Path, expected: set[str], name: str) -> None:
    """Check that the saved weights are those of all targeted layers and nothing else."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        found = set(file.keys())
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        raise AdapterError(
            f"adapter {name!r} was saved with other layers than targeted: missing {missing[:_SHOWN_KEYS]} "
            f"({len(missing)}), unexpected {unexpected[:_SHOWN_KEYS]} ({len(unexpected)}); check lora.target_modules"
        )


def _add_origin(weights: Path, job: AdapterJob, record: Mapping[str, Any]) -> None:
    """Say in the head of the weights what decided them.

    safetensors writes such entries in random order, so that equal weights would have other hashes.
    """
    data = {"data_hash": record["data"]["hash"]} if "data" in record else {}
    origin = {"base_model": job.model.public_name, "base_revision": job.model.revision, **data, "format": "pt"}
    changed = weights.with_name("changed")
    with weights.open("rb") as old, changed.open("wb") as new:
        entries = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        head = json.dumps({**entries, "__metadata__": origin}, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)  # tensors begin at a multiple of 8 bytes
        new.write(len(head).to_bytes(8, "little") + head)
        shutil.copyfileobj(old, new, 2**20)
    changed.replace(weights)


def _make_comparable(path: Path, model: ResolvedModel) -> dict[str, Any]:
    """Give equal adapters equal hashes on every machine, and return the adapter's configuration.

    peft writes a set of module names, whose order differs between processes, and the folder that the base was read
    from; here the base is its hub id and commit, its bundled name, or the configuration's name of a local folder.
    """
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "target_modules" in config:
        config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = model.public_name
    config["revision"] = model.revision if model.is_from_hub else None
    write_json(path, config)
    return config
