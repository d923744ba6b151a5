"""A small run on bundled items and a maker without a model, for tests of the sweep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from tests.engine.fake_scorer import FakeScorer, ScoreFunction, hashed_loglikelihood
from transfergrid.config.selection import Narrowing
from transfergrid.config.settings import DataConfig, GridConfig, ModelConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.evaluation.summary import EvaluationReport
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import Adapter
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.work.request import EvalRequest
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import scan_scores

TASKS = ("arc_challenge", "global_mmlu")
LANGUAGES = ("de", "en")
SEED = 17


@dataclass
class FakeMaker:
    """Makes fake scorers and counts them."""

    function: ScoreFunction = hashed_loglikelihood
    version: str = "1"
    way: str = "multi-lora"
    opened: list[FakeScorer] = field(default_factory=list)

    def key_parts(self) -> Mapping[str, Any]:
        return {"name": "fake", "version": self.version, "way": self.way}

    def device_name(self) -> str:
        return "fake device"

    def check_adapter(self, folder: Path, model_folder: Path, *, name: str) -> Adapter:
        return check_adapter(folder, read_linear_shapes(model_folder), name=name)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> FakeScorer:
        self.opened.append(FakeScorer(self.function))
        return self.opened[-1]


def small_config(model: Path, **changes: Any) -> GridConfig:
    """Return a grid of 2 tasks x 2 languages with 3 test items per cell."""
    settings: dict[str, Any] = {
        "models": (ModelConfig(path=str(model), name="tiny"),),
        "tasks": TASKS,
        "languages": LANGUAGES,
        "seeds": (SEED,),
        "data": DataConfig(max_test_items=3, max_train_items=4),
    }
    return GridConfig(**{**settings, **changes})


def sweep(config: GridConfig, run: RunFolder, maker: FakeMaker | None = None, **request: Any) -> EvaluationReport:
    """Score with a fake maker unless another is given; ``request`` holds fields of ``EvalRequest``."""
    narrowing = Narrowing(**request.pop("narrowing", {}))
    return evaluate(config, run, EvalRequest(narrowing=narrowing, **request), maker=maker or FakeMaker())


def write_config(model: Path, path: Path, **sections: Any) -> None:
    """Write the file of ``small_config``, with more sections."""
    settings = {
        "models": [{"path": str(model), "name": "tiny"}],
        "tasks": TASKS,
        "languages": LANGUAGES,
        "seeds": [SEED],
        "data": {"max_test_items": 3, "max_train_items": 4},
    }
    path.write_text(json.dumps({**settings, **sections}), encoding="utf-8")


def add_adapters(config: GridConfig, run: RunFolder, template: Path) -> None:
    """Give every source cell of the first model and seed an adapter of its own content, copied from a template."""
    model = config.models[0].name
    for cell in config.grid.cells:
        copy_adapter(template, run.adapter(model, config.seeds[0], cell), note=cell.name)


def copy_adapter(template: Path, folder: Path, *, note: str) -> None:
    """Copy an adapter and change its configuration, so that its content is its own."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(template / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    text = (template / CONFIG_FILE).read_text(encoding="utf-8")
    (folder / CONFIG_FILE).write_text(text.replace("{", f'{{"note": "{note}", ', 1), encoding="utf-8")


def vary_adapter(template: Path, folder: Path, *, seed: int) -> None:
    """Copy an adapter with other random values of the same size."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    shutil.copy(template / CONFIG_FILE, folder / CONFIG_FILE)
    weights = load_file(template / WEIGHTS_FILE)
    signs = {name: generator.choice((-1, 1), values.shape).astype(values.dtype) for name, values in weights.items()}
    save_file({name: values * signs[name] for name, values in weights.items()}, folder / WEIGHTS_FILE)


def stored_rows(run: RunFolder) -> pl.DataFrame:
    """Return all rows of a run's store in a fixed order."""
    keys = ["model", "seed", "source_task", "source_language", "target_task", "target_language", "item_id"]
    return scan_scores(sorted(run.scores.glob("*.parquet"))).collect().sort(keys, nulls_last=False)
