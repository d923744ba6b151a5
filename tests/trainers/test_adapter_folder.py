from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainers.small_grid import adapter
from transfergrid.config.settings import ModelConfig
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.jobs import ResolvedModel

pytestmark = pytest.mark.engine


def test_the_base_is_named_as_on_any_machine(finished: RunFolder, tmp_path: Path) -> None:
    saved = json.loads((adapter(finished) / "adapter_config.json").read_text(encoding="utf-8"))
    assert (saved["base_model_name_or_path"], saved["revision"]) == ("tiny", None)
    commit = "0" * 40
    hub = ResolvedModel(
        ModelConfig(path="org/Tiny"), tmp_path / "models--org--Tiny" / "snapshots" / commit, commit, None
    )
    bundled = ResolvedModel(ModelConfig(path="bundled:smollm2-135m-instruct"), tmp_path / "x", "1", None)
    assert (hub.public_name, hub.is_from_hub) == ("org/Tiny", True)
    assert (bundled.public_name, bundled.is_from_hub) == ("bundled:smollm2-135m-instruct", False)
