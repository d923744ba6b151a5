"""Reading a configuration file: all its faults in one message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from transfergrid.config.faults import describe_faults
from transfergrid.config.settings import GridConfig
from transfergrid.config.values import is_folder
from transfergrid.config.yaml_text import parse_yaml
from transfergrid.grid import UserError


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
    harness = dict(config.harness_tasks)
    for name, task in harness.items():
        if task.include_path is not None:
            harness[name] = task.model_copy(update={"include_path": folder / _expanded(task.include_path)})
    data = config.data
    if data.path is not None:
        data = data.model_copy(update={"path": folder / _expanded(data.path)})
    return config.model_copy(update={"custom_tasks": tasks, "harness_tasks": harness, "models": models, "data": data})


def _model_path(path: str, folder: Path) -> str:
    """Return a model's local folder as an absolute path; names of bundled models and hub ids stay as they are."""
    if path.startswith("bundled:"):
        return path
    local = folder / _expanded(Path(path))
    return str(local) if path.startswith((".", "~")) or is_folder(local) else path


def _expanded(path: Path) -> Path:
    """Return a path with ``~`` replaced by the home folder.

    Raises:
        UserError: If the home folder is not known.
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
        models.append(model.model_copy(update={"path": str(folder.resolve())}) if is_folder(folder) else model)
    return config.model_copy(update={"models": tuple(models)})
