"""Small files of a run folder that another program may have damaged: failures, the items' manifest, index, lock."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.strategies import damaged_json
from transfergrid.engine.work.failures import FAILURES_FILE, Failure, describe_failures, read_failures
from transfergrid.grid import UserError
from transfergrid.store import lock
from transfergrid.store.data_manifest import MANIFEST, DataManifest, read_manifest
from transfergrid.store.file_index import FileIndex
from transfergrid.store.lock import HOLDER_FILE, hold_run_folder

_MANIFEST = DataManifest(
    request_hash="a",
    source="hub",
    revisions={"arc_challenge": "abc"},
    counts={"arc_challenge": {"train": 3, "test": 2}},
    dropped={"arc_challenge": 1},
    remarks=["one"],
    languages=["de"],
    hashes={"arc_challenge-de": "b"},
    datasets={"arc_challenge": "x/y"},
)
CONTENTS = damaged_json(
    [asdict(Failure(model="m", reason="no", seed=17, source="arc_challenge-de", target="arc_challenge-en"))],
    _MANIFEST.as_json(),
    {"purpose": "grid eval", "pid": 3, "host": "here", "since": "2026-01-01T00:00:00+00:00"},
)


lock._PATIENCE_S = 0.0  # a second holder is refused at once


def read(content: bytes, folder: Path) -> None:
    for name in (FAILURES_FILE, MANIFEST, HOLDER_FILE, "index.json"):
        (folder / name).write_bytes(content)
    FileIndex(folder / "index.json").look_up(folder, [folder / MANIFEST], lambda: 1)
    with suppress(UserError):
        describe_failures(read_failures(folder))
    with suppress(UserError), hold_run_folder(folder, "grid eval"), hold_run_folder(folder, "grid eval"):
        raise AssertionError("held twice")
    (folder / HOLDER_FILE).write_bytes(content)
    if manifest := read_manifest(folder):
        manifest.rows()
        _ = manifest.pins
