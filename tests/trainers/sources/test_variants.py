"""Variants of the recipe: each trains what a run of that recipe alone would train, on the same data in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainers.small_grid import ENGLISH, SPANISH, everything, make_config, sweep, weights_hash
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.folder import RECORD_FILE
from transfergrid.engine.work.adapter_sizes import bytes_to_make
from transfergrid.engine.work.request import EvalRequest, find_sources
from transfergrid.store.folder import RunFolder
from transfergrid.store.json_text import read_json
from transfergrid.trainers.plan import plan_training
from transfergrid.trainers.sft.trainer import AdapterTrainer

BOTH = {"both": {"all_languages_of": "arc_challenge"}}
RANK_2 = {"lora": {"r": 2}}
MATCHED = {"prompts": {"train_format": "eval"}, "training": {"epochs": 1}, "of": ["both"]}


def batches_by_source(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Have every trainer note the tokens of its batches, by the name of its adapter."""
    seen: dict[str, list[Any]] = {}
    take_loss = AdapterTrainer.take_loss

    def note(self: Any, loss: Any, inputs: Any) -> None:
        seen.setdefault(self.args.run_name, []).append(inputs["input_ids"].tolist())
        take_loss(self, loss, inputs)

    monkeypatch.setattr(AdapterTrainer, "take_loss", note)
    return seen


@pytest.fixture(scope="module")
def varied(tiny_llama: Path) -> GridConfig:
    return make_config(tiny_llama, sources=BOTH, variants={"r2": RANK_2, "matched": MATCHED}, adapters_at_once=2)


def test_a_variant_is_what_a_run_of_its_recipe_trains(
    varied: GridConfig, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = batches_by_source(monkeypatch)
    run = RunFolder(tmp_path / "varied")
    names = ["arc_challenge-en", "arc_challenge-es", "both"]
    variants = ["arc_challenge-en@r2", "arc_challenge-es@r2", "both@matched"]
    assert sweep(varied, run).finished == tuple(f"tiny s17 {name}" for name in [*names, *variants])
    for name in names[:2]:  # rank variants share the data order
        assert seen[f"tiny s17 {name}@r2"] == seen[f"tiny s17 {name}"]
    assert len(seen["tiny s17 both"]) > len(seen["tiny s17 both@matched"]) > 0

    alone = RunFolder(tmp_path / "alone")
    sweep(make_config(tiny_llama, lora={"r": 2, "alpha": 8}, adapters_at_once=2), alone)
    for cell in (ENGLISH, SPANISH):
        folder = run.adapter("tiny", 17, cell)
        variant = folder.with_name(f"{cell.name}@r2")
        assert weights_hash(variant) == weights_hash(alone.adapter("tiny", 17, cell)) != weights_hash(folder)
        record, main = (read_json(each / RECORD_FILE) for each in (variant, folder))
        assert (record["kind"], record["variant"], record["config"]["lora"]["r"]) == ("variant", "r2", 2)
        assert (record["data"], record["resolved"]["adapters_at_once"]) == (main["data"], 2)
    assert set(sweep(varied, run).kept) == {f"tiny s17 {name}" for name in [*names, *variants]}
    assert {state for *_, state in plan_training(varied, run, everything(varied)).jobs} == {"finished"}


def test_a_plan_prices_every_variant(varied: GridConfig, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    steps = {name.split()[-1]: n_steps for name, _, n_steps, *_ in plan_training(varied, run, everything(varied)).jobs}
    assert steps["both"] == 2 * steps["both@matched"]
    _, places = find_sources(varied, run, EvalRequest())
    folder = Path(varied.models[0].path)
    main, small = (
        bytes_to_make([place for place in places if place.source.name == f"arc_challenge-en{mark}"], varied, folder)
        for mark in ("", "@r2")
    )
    assert main == 2 * small > 0
