"""The one folder that a server loads adapters from."""

from __future__ import annotations

from pathlib import Path

from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.interfaces import AdapterError

_SHOWN_LENGTH = 80


def confine(path: str, root: Path) -> Path:
    """Return the resolved folder of an adapter that lies, with its files, under a root.

    Raises:
        AdapterError: If it leads elsewhere, through ``..`` or links, or holds no adapter.
    """
    root = root.resolve()
    try:
        folder = (root / path).resolve()
        files = [(folder / name).resolve() for name in (CONFIG_FILE, WEIGHTS_FILE)]
        are_there = all(file.is_file() for file in files)
    except (OSError, ValueError, RuntimeError) as error:  # a null character, a loop of links, a name of 300 letters
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AdapterError(f"adapter path {path[:_SHOWN_LENGTH]!r} cannot be resolved: {reason}") from error
    if not all(entry.is_relative_to(root) for entry in (folder, *files)):
        raise AdapterError(
            f"adapter path {path!r} is not under {str(root)!r}; copy the adapter there, or start 'grid serve' with "
            "another --adapter-root"
        )
    if not are_there:
        raise AdapterError(f"no adapter at {path!r}; expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    return folder
