"""A hub that needs no network: snapshots are copied out of a local folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

COMMIT = "0123abcd" * 5


@dataclass
class LocalHub:
    """Takes the place of ``snapshot_download`` and remembers what was asked of it."""

    model: Path
    """Folder whose files every hub id stands for."""
    cache: Path
    revisions: list[str | None] = field(default_factory=list)

    def snapshot_download(
        self, hub_id: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        """Copy the files that fit the patterns into the cache; return the snapshot's folder."""
        self.revisions.append(revision)
        folder = self.snapshot(hub_id)
        folder.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in self.model.iterdir()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            if not (folder / name).is_file():
                shutil.copy(self.model / name, folder / name)
        return str(folder)

    def snapshot(self, hub_id: str) -> Path:
        """Return the folder of a model's files."""
        return self.cache / f"models--{hub_id.replace('/', '--')}" / "snapshots" / COMMIT


def use_local_hub(monkeypatch: pytest.MonkeyPatch, model: Path, cache: Path) -> LocalHub:
    """Let a folder's files be those of every model of the hub."""
    hub = LocalHub(model, cache)
    replacement: Any = hub.snapshot_download
    monkeypatch.setattr("huggingface_hub.snapshot_download", replacement)
    return hub
