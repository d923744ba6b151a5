"""What the report says of where a run comes from: training.json of an adapter and the manifest of the items."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.strategies import damaged_json
from transfergrid.analysis.report.origins import read_run_manifest
from transfergrid.store.folder import RunFolder

CONTENTS = damaged_json(
    {
        "model": "m",
        "seed": 17,
        "cell": "arc_challenge-de",
        "data": {"n_train": 3, "train_hash": "a"},
        "best_epoch": 1,
        "best_validation_loss": 0.5,
        "content_hash": "abc",
        "versions": {"torch": "2"},
        "git": {"commit": "a", "dirty": False},
        "base": {"revision": "x"},
        "resolved": {"dtype": "float32", "device": "cpu"},
        "config": {"lora": {"r": 8}, "training": {"epochs": 1}},
    },
    {"source": "bundled", "revisions": {"arc_challenge": "abc"}, "cells": {"arc_challenge-de": {"train": 1}}},
)


def read(content: bytes, folder: Path) -> None:
    run = RunFolder(folder)
    for path in (run.adapters / "m" / "s17" / "arc_challenge-de" / "training.json", run.data / "manifest.json"):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    read_run_manifest(run)
