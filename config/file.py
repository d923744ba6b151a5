"""Reading a configuration file: all its faults in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from transfergrid.config.settings import GridConfig
from transfergrid.config.yaml_text import parse_yaml
from transfergrid.grid import UserError
from transfergrid.wording import closest_hint


def _section_keys(root: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys that the section around a location takes."""
    section: Any = root
    for part in location[:-1]:
        if _is_section(section):
            section = _without_null(section.model_fields[part].annotation)
        elif get_origin(section) is dict:
            section = _without_null(get_args(section)[1])
        else:
            section = _without_null(get_args(section)[0])
    return sorted(section.model_fields)


def _is_section(annotation: Any) -> bool:
    """Return whether a setting is a section with settings of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _without_null(annotation: Any) -> Any:
    """Return the type of a setting that may be null: ``Model`` for ``Model | None``."""
    options = [option for option in get_args(annotation) if option is not NoneType]
    return options[0] if NoneType in get_args(annotation) and len(options) == 1 else annotation


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
    if fault["type"] == "value_error":
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}"
    if fault["type"] in _EXPECTED:
        return f"{path}: expected {_EXPECTED[fault['type']]}, not {fault['input']!r}{_yaml_hint(fault)}"
    return f"{path}: {fault['msg']}, not {fault['input']!r}"


_EXPECTED = {
    "tuple_type": "a list",
    "dict_type": "a mapping of settings",
    "model_type": "a mapping of settings",
    "string_type": "text",
}
"""What YAML calls the kinds that pydantic has Python's names for."""


def _yaml_hint(fault: Any) -> str:
    """Say how a value of the wrong kind is written."""
    value = fault["input"]
    if fault["type"] == "tuple_type" and isinstance(value, str | int):
        return f"; write [{value}]"
    if fault["type"] == "string_type" and isinstance(value, bool):
        words = "yes or on" if value else "no or off"
        return f"; YAML reads an unquoted {words} as {str(value).lower()}: put the word in quotes"
    return ""


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
        UserError: If the file is missing, is not YAML, has a key twice, or has faults; all faults are in one message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"no configuration at {str(path)!r}; 'grid init' writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"configuration {str(path)!r} cannot be read: {error}") from error
    raw = parse_yaml(text, f"configuration {str(path)!r}")
    return parse_config({} if raw is None else raw, origin=str(path), folder=path.resolve().parent)


def absolute_models(config: GridConfig) -> GridConfig:
    """Return a configuration whose local model folders do not depend on where a process runs."""
    models = []
    for model in config.models:
        folder = Path(model.path).expanduser()
        models.append(model.model_copy(update={"path": str(folder.resolve())}) if folder.is_dir() else model)
    return config.model_copy(update={"models": tuple(models)})
