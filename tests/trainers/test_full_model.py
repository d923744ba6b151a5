"""Full fine-tuning: all weights are trained, the base stays, the result is found and kept like an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.trainers.small_grid import ENGLISH, adapter, everything, make_config, make_jobs, sweep, weights_hash
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.full import FULL
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.store.folder import RunFolder
from transfergrid.store.json_text import read_json
from transfergrid.trainers.adapter_training import train_adapter
from transfergrid.trainers.base_model import load_base
from transfergrid.trainers.events import ignore_events
from transfergrid.trainers.plan import plan_training
from transfergrid.trainers.record import TrainedAdapter


@pytest.fixture(scope="module")
def varied(tiny_llama: Path) -> GridConfig:
    full = {"training": {"method": "full"}, "of": [ENGLISH.name]}
    return make_config(tiny_llama, variants={"full": full})


@pytest.fixture(scope="module")
def made(varied: GridConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("full"))
    assert sweep(varied, run).finished[-1] == f"tiny s17 {ENGLISH.name}@full"
    return run


def full_folder(run: RunFolder) -> Path:
    return adapter(run).with_name(f"{ENGLISH.name}@full")


def test_it_has_every_weight_of_the_base_and_all_of_them_moved(made: RunFolder, tiny_llama: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    weights = load_file(full_folder(made) / "adapter_model.safetensors")
    there = dict(base.named_parameters())
    assert set(weights) == set(there)
    assert all(not torch.equal(weights[name], there[name]) for name in there)
    record = read_json(full_folder(made) / "training.json")
    assert (record["kind"], record["variant"], record["key"]["method"]) == ("variant", "full", "full")
    assert "lora" not in record["key"]
    assert "method" not in read_json(adapter(made) / "training.json")["key"]
    assert "load_state_dict" in (full_folder(made) / "README.md").read_text(encoding="utf-8")


def test_it_is_kept_and_its_adapters_are_those_of_a_run_without_it(
    made: RunFolder, varied: GridConfig, finished: RunFolder
) -> None:
    assert len(sweep(varied, made).kept) == 3
    assert {row[5] for row in plan_training(varied, made, everything(varied)).jobs} == {"finished"}
    assert weights_hash(adapter(made)) == weights_hash(adapter(finished))


def test_the_best_epoch_is_kept_and_training_stops_early(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(tiny_llama, method="full", epochs=6, learning_rate=0.1, early_stopping_patience=1)
    job = make_jobs(config, tmp_path)[0]
    kept: dict[str, Any] = {}

    def keep(model: Any, trained: TrainedAdapter) -> None:
        kept.update({name: weight.detach().clone() for name, weight in model.named_parameters()}, record=trained)

    base = load_base(tiny_llama, config.training)
    before = {name: weight.clone() for name, weight in base.model.named_parameters()}
    trained = train_adapter(job, base, config, scratch=tmp_path, events=ignore_events, save=keep)
    losses = {round(point["epoch"]): point["validation_loss"] for point in trained.epoch_curve}
    assert trained.best_epoch == min(losses, key=lambda epoch: losses[epoch])
    assert len(losses) == trained.best_epoch + 1 < 6
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.named_parameters())
    base.model.load_state_dict({name: weight for name, weight in kept.items() if name in before}, strict=False)
    # the weights that were kept have the loss that was noted
    examples = job.data.validation
    sums = [
        torch.nn.functional.cross_entropy(
            base.model(torch.tensor([each.input_ids])).logits[0, :-1], torch.tensor(each.labels[1:]), reduction="sum"
        )
        for each in examples
    ]
    n_supervised = sum(label != -100 for each in examples for label in each.labels[1:])
    assert float(sum(sums)) / n_supervised == pytest.approx(trained.best_validation_loss, rel=1e-4)


def test_it_learns_sixteen_items_by_heart(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(
        tiny_llama,
        method="full",
        epochs=24,
        learning_rate=1e-2,
        batch_size=8,
        data={"max_train_items": 9},
        sources={"both": {"all_languages_of": "arc_challenge", "budget": "all"}},
    )
    job = make_jobs(config, tmp_path)[-1]
    assert (job.source.name, len(job.data.train)) == ("both", 16)
    base = load_base(tiny_llama, config.training)
    trained = train_adapter(job, base, config, scratch=tmp_path, events=ignore_events, save=lambda *_: None)
    losses = [point["loss"] for point in trained.step_curve]
    assert losses[-1] < 0.02 < 1 < losses[0]


def test_a_full_fine_tune_is_checked_against_its_base_and_refused_by_other_engines(
    made: RunFolder, tiny_llama: Path
) -> None:
    shapes = read_linear_shapes(tiny_llama)
    checked = check_adapter(full_folder(made), shapes, name="full", takes_full=True)
    assert (checked.is_full, checked.rank, read_json(checked.path / "adapter_config.json")["peft_type"]) == (
        True,
        0,
        FULL,
    )
    with pytest.raises(AdapterError, match=r"'full' is a full fine-tune, which the default engine scores and no other"):
        check_adapter(full_folder(made), shapes, name="full")
    other = {**shapes, "layers.0.self_attn.q_proj": (1, 1)}
    with pytest.raises(
        AdapterError, match=r"'full' does not fit this base: 1 layer\(s\) differ, for example 'layers.0"
    ):
        check_adapter(full_folder(made), other, name="full", takes_full=True)
