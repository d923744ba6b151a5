"""Reading a configuration file: all its faults in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from transfergrid.config import GridConfig, ModelConfig, closest_hint
from transfergrid.grid import UserError


def _section_keys(root: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys that the section around a location takes."""
    section = root
    for part in location[:-1]:
        if not isinstance(part, str):
            section = ModelConfig
            continue
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return sorted(section.model_fields)


def _describe(fault: Any, root: type[BaseModel]) -> str:
    """Return one fault as ``path: what is wrong, the value, what is accepted``."""
    location = fault["loc"]
    path = ".".join(str(part) for part in location) or "file"
    if fault["type"] == "extra_forbidden":
        keys = _section_keys(root, location)
        return f"{path}: unknown key {location[-1]!r}; expected one of {keys}{closest_hint(location[-1], keys)}"
    if fault["type"] == "literal_error":
        accepted = [word.strip(" '") for word in fault["ctx"]["expected"].replace(" or ", ", ").split(",")]
        hint = closest_hint(fault["input"], accepted)
        return f"{path}: {fault['input']!r} is not accepted; expected one of {accepted}{hint}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if fault["type"] == "value_error" else f"{path}: {message}, not {fault['input']!r}"


def _real_faults(error: ValidationError) -> list[Any]:
    """Return a validation's faults without the "too short" ones that only follow from a fault inside the list."""
    faults = error.errors()
    inner = {fault["loc"][0] for fault in faults if len(fault["loc"]) > 1}
    return [fault for fault in faults if fault["type"] != "too_short" or fault["loc"][0] not in inner]


def describe_faults(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """Return one message that names every fault of a validation.

    Args:
        error: What pydantic found.
        root: The record that was validated.
        origin: What was read, for the start of the message.
    """
    faults = _real_faults(error)
    shown = "".join(f"\n  - {_describe(fault, root)}" for fault in faults)
    return f"{origin} has {len(faults)} fault(s):{shown}"


def parse_config(raw: Any, *, origin: str, folder: Path | None = None) -> GridConfig:
    """Check a mapping read from YAML.

    Args:
        raw: The file's content.
        origin: Name of the file for messages.
        folder: Folder that relative paths in the file start from; None leaves them as they are.

    Raises:
        UserError: If anything in it is not accepted; every fault is named, with its path and what is accepted.
    """
    if not isinstance(raw, Mapping):
        kind = type(raw).__name__
        raise UserError(f"{origin} holds a {kind}, not a mapping of settings; 'grid init' writes an example")
    try:
        config = GridConfig.model_validate(dict(raw))
    except ValidationError as error:
        raise UserError(describe_faults(error, GridConfig, origin)) from error
    return config if folder is None else _resolve_paths(config, folder)


def _resolve_paths(config: GridConfig, folder: Path) -> GridConfig:
    """Make the paths of a configuration absolute, starting from the folder of its file."""
    tasks = {name: folder / _expanded(path) for name, path in config.custom_tasks.items()}
    models = tuple(model.model_copy(update={"path": _model_path(model.path, folder)}) for model in config.models)
    data = config.data
    if data.path is not None:
        data = data.model_copy(update={"path": folder / _expanded(data.path)})
    return config.model_copy(update={"custom_tasks": tasks, "models": models, "data": data})


def _model_path(path: str, folder: Path) -> str:
    """Return a model's local folder as an absolute path; names of bundled models and hub ids stay as they are."""
    if path.startswith("bundled:"):
        return path
    local = folder / _expanded(Path(path))
    return str(local) if path.startswith((".", "~")) or local.is_dir() else path


def _expanded(path: Path) -> Path:
    """Return a path with ``~`` replaced by the home folder.

    Raises:
        UserError: If nobody's home folder is meant.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"path {str(path)!r} starts with a home folder that is not known; write it out") from error


def load_config(path: Path) -> GridConfig:
    """Read a configuration file.

    Raises:
        UserError: If the file is missing, is not YAML, or has faults; all faults are in the one message.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no configuration at {str(path)!r}; 'grid init' writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"configuration {str(path)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"configuration {str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    return parse_config({} if raw is None else raw, origin=str(path), folder=path.resolve().parent)
