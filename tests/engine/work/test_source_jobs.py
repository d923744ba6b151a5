"""An adapter is scored with the base it was trained on, also where bases of one shape could be mixed up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.sweeps import SEED, FakeMaker, add_adapters, small_config
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.config.training import TARGET_MODULES
from transfergrid.engine.adapters.folder import RECORD_FILE
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.work.base_model import require_base, resolve_base
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import Cell
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.jobs import find_model

DE, EN = Cell("arc_challenge", "de"), Cell("arc_challenge", "en")


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    return small_config(tiny_llama)


@pytest.fixture
def other_base(tiny_llama: Path, tmp_path: Path) -> Path:
    """A base of the same shape with one weight changed."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "other"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    return folder


def write_record(folder: Path, content: object) -> None:
    (folder / RECORD_FILE).write_text(json.dumps(content), encoding="utf-8")


def trained_revision(folder: Path) -> str:
    """Return what the trainer records of a base."""
    return find_model(ModelConfig(path=str(folder), name="tiny"), TARGET_MODULES).revision


def test_an_adapter_of_another_base_of_the_same_shape_is_listed_and_the_rest_goes_on(
    config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path, other_base: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    add_adapters(config, run, tiny_adapters[0])
    theirs, ours = trained_revision(other_base), trained_revision(Path(config.models[0].path))
    write_record(run.adapter("tiny", SEED, DE), {"base": {"revision": theirs}})
    write_record(run.adapter("tiny", SEED, EN), {"base": {"revision": ours}})
    report = evaluate(config, run, EvalRequest(), maker=FakeMaker())
    (failure,) = report.failures
    assert failure.what == "tiny s17 arc_challenge-de"
    assert f"was trained on revision {theirs!r} of its base, and 'tiny' is {ours!r}; score it with" in failure.reason
    assert (report.is_complete, report.n_finished) == (False, 16)


@pytest.mark.parametrize("content", [{}, {"base": "llama"}, {"base": {"path": "x"}}, ["steps"]])
def test_a_record_that_names_no_revision_says_nothing(config: GridConfig, tmp_path: Path, content: object) -> None:
    base = resolve_base(config, config.models[0], FakeMaker())
    require_base(tmp_path, base, name="x")
    write_record(tmp_path, content)
    require_base(tmp_path, base, name="x")


def test_a_record_that_cannot_be_read_is_refused(config: GridConfig, tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text("{", encoding="utf-8")
    base = resolve_base(config, config.models[0], FakeMaker())
    with pytest.raises(AdapterError, match=r"adapter 'x': training\.json in .* cannot be read: .*; train it again"):
        require_base(tmp_path, base, name="x")
